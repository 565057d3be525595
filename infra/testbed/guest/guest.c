/*
 * The guest's only program, PID 1. It makes it visible whether a virtual machine has moved whole:
 *
 *   RAM   a counter, one more every 100 ms, and a token drawn at boot that no disk ever sees
 *   disk  /data/count, one line for each count, synced every ten lines
 *
 * and says both on the console and by HTTP on port 80, always as JSON:
 *
 *   GET /                   counter, token, bootId, wall (ms since the epoch), uptime (s), hostname, synced (lines on the disk)
 *   GET /check              reads /data/count from the disk: lines, first, last, gaps, torn, boots
 *   GET|PUT /marker?text=T  puts T into RAM and into /data/marker; without T says what is there
 *   GET /fill?mib=N         keeps N MiB of RAM filled, half of it incompressible (0: frees it); without N checks every page
 *   GET /write?mib=N        makes /data/bulk, N MiB that do not compress
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COUNT_FILE "/data/count"
#define MARKER_FILE "/data/marker"
#define TICK_NS 100000000L
#define SYNC_EVERY 10
#define PAGE 4096
#define MIB (1024 * 1024)

static atomic_ulong counter;
static atomic_ulong synced;
static char token[33];
static char boot_id[40];
static char marker[1024];

static int64_t now_ms(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void die(const char *what)
{
	printf("guest: %s: %s\n", what, strerror(errno));
	for (;;)
		pause(); /* the end of PID 1 would be a panic that hides the message */
}

static uint32_t checksum(const char *text, size_t length)
{
	uint32_t sum = 2166136261u;
	while (length--)
		sum = (sum ^ (unsigned char)*text++) * 16777619u;
	return sum;
}

/* ---- The count on the disk: lines of one length, each with its checksum, so that a torn one is known ---- */

#define LINE 59

static void format_line(char line[LINE + 1], unsigned long count)
{
	int length = snprintf(line, LINE, "boot=%.8s count=%010lu wall=%013lld ", boot_id, count, (long long)now_ms(CLOCK_REALTIME));
	snprintf(line + length, LINE + 1 - length, "%08x\n", checksum(line, length));
}

struct check {
	unsigned long lines, first, last, gaps, torn, boots;
};

static int check_file(struct check *result)
{
	char line[4 * LINE], boot[9] = "", named[9], end;
	unsigned long count;
	long long wall;
	unsigned sum;
	memset(result, 0, sizeof *result);
	int file = open(COUNT_FILE, O_RDONLY);
	if (file < 0 || fsync(file))
		return -1;
	/* What RAM remembers of the file would always be whole. */
	posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
	FILE *stream = fdopen(file, "r");
	if (!stream)
		return -1;
	while (fgets(line, sizeof line, stream)) {
		if (strlen(line) != LINE || sscanf(line, "boot=%8s count=%lu wall=%lld %8x%c", named, &count, &wall, &sum, &end) != 5 ||
		    end != '\n' || sum != checksum(line, LINE - 9)) {
			result->torn++;
			continue;
		}
		int another = strcmp(boot, named) != 0; /* another boot counts from 1 again */
		if (another) {
			strcpy(boot, named);
			result->boots++;
			result->first = count;
		}
		if (count != (another ? 1 : result->last + 1))
			result->gaps++;
		result->last = count;
		result->lines++;
	}
	int failed = ferror(stream);
	return fclose(stream) || failed ? -1 : 0;
}

/* ---- Filled RAM ---- */

static unsigned char *filled;
static size_t filled_bytes;

/* The content of a page follows from its number, so that it can be checked: odd pages do not compress, even ones do. */
static void make_page(uint64_t *page, uint64_t number)
{
	uint64_t x = (number + 1) * 0x9E3779B97F4A7C15u;
	for (int i = 0; i < PAGE / 8; i++) {
		if (number % 2) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			page[i] = x;
		} else
			page[i] = i % 64 ? 0x2020202020202020u : x;
	}
}

static int fill(size_t mib)
{
	if (filled)
		munmap(filled, filled_bytes);
	filled = NULL;
	filled_bytes = mib * MIB;
	if (!mib)
		return 0;
	void *memory = mmap(NULL, filled_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		filled_bytes = 0;
		return -1;
	}
	filled = memory;
	for (size_t page = 0; page < filled_bytes / PAGE; page++)
		make_page((uint64_t *)(filled + page * PAGE), page);
	return 0;
}

static unsigned long damaged_pages(void)
{
	uint64_t expected[PAGE / 8];
	unsigned long damaged = 0;
	for (size_t page = 0; page < filled_bytes / PAGE; page++) {
		make_page(expected, page);
		if (memcmp(expected, filled + page * PAGE, PAGE))
			damaged++;
	}
	return damaged;
}

static int write_bulk(size_t mib)
{
	uint64_t page[PAGE / 8];
	FILE *file = fopen("/data/bulk", "w");
	if (!file)
		return -1;
	for (size_t number = 0; number < mib * (MIB / PAGE); number++) {
		make_page(page, number * 2 + 1);
		if (fwrite(page, PAGE, 1, file) != 1)
			break;
	}
	int failed = ferror(file) || fflush(file) || fsync(fileno(file));
	return fclose(file) || failed ? -1 : 0;
}

/* ---- The marker ---- */

static int read_marker(char *text, size_t size)
{
	int file = open(MARKER_FILE, O_RDONLY);
	if (file < 0)
		return *text = 0;
	ssize_t length = read(file, text, size - 1);
	close(file);
	text[length < 0 ? 0 : length] = 0;
	return length < 0 ? -1 : 0;
}

static int set_marker(const char *text)
{
	snprintf(marker, sizeof marker, "%s", text);
	int file = open(MARKER_FILE, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (file < 0)
		return -1;
	int failed = write(file, marker, strlen(marker)) < 0 || fsync(file);
	return close(file) || failed ? -1 : 0;
}

/* ---- HTTP ---- */

/* The value of a parameter, or NULL; it ends where the request's path does. Letters that JSON or URLs must escape are not for it. */
static char *parameter(char *query, const char *name)
{
	size_t length = strlen(name);
	for (char *part = query; part; part = strchr(part, '&'), part = part ? part + 1 : NULL)
		if (!strncmp(part, name, length) && part[length] == '=') {
			char *value = part + length + 1;
			value[strcspn(value, "&\"\\%")] = 0;
			return value;
		}
	return NULL;
}

static int answer(char *path, char *body, size_t size)
{
	char *query = strchr(path, '?');
	if (query)
		*query++ = 0;
	char *mib = parameter(query, "mib");
	if (!strcmp(path, "/")) {
		char hostname[65] = "";
		gethostname(hostname, sizeof hostname - 1);
		snprintf(body, size,
			"{\"counter\":%lu,\"token\":\"%s\",\"bootId\":\"%s\",\"wall\":%lld,\"uptime\":%.3f,\"hostname\":\"%s\",\"synced\":%lu}",
			counter, token, boot_id, (long long)now_ms(CLOCK_REALTIME), now_ms(CLOCK_MONOTONIC) / 1000.0, hostname, synced);
		return 0;
	}
	if (!strcmp(path, "/check")) {
		struct check c;
		if (check_file(&c))
			return -1;
		snprintf(body, size, "{\"lines\":%lu,\"first\":%lu,\"last\":%lu,\"gaps\":%lu,\"torn\":%lu,\"boots\":%lu}", c.lines, c.first,
			c.last, c.gaps, c.torn, c.boots);
		return 0;
	}
	if (!strcmp(path, "/marker")) {
		char disk[sizeof marker];
		char *text = parameter(query, "text");
		if ((text && set_marker(text)) || read_marker(disk, sizeof disk))
			return -1;
		snprintf(body, size, "{\"ram\":\"%s\",\"disk\":\"%s\"}", marker, disk);
		return 0;
	}
	if (!strcmp(path, "/fill")) {
		if (mib && fill(strtoul(mib, NULL, 10)))
			return -1;
		unsigned long damaged = mib ? 0 : damaged_pages();
		snprintf(body, size, "{\"mib\":%zu,\"damagedPages\":%lu}", filled_bytes / MIB, damaged);
		return 0;
	}
	if (!strcmp(path, "/write") && mib) {
		if (write_bulk(strtoul(mib, NULL, 10)))
			return -1;
		snprintf(body, size, "{\"mib\":%lu}", strtoul(mib, NULL, 10));
		return 0;
	}
	errno = ENOENT;
	return -1;
}

static void serve_one(int client)
{
	char request[2048], path[1536], body[4096];
	struct timeval patience = { 2, 0 };
	setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	size_t length = 0;
	do {
		ssize_t got = recv(client, request + length, sizeof request - 1 - length, 0);
		if (got <= 0)
			return;
		request[length += got] = 0;
	} while (!strstr(request, "\r\n\r\n") && length < sizeof request - 1);
	int failed = sscanf(request, "%*s %1535s", path) != 1 || answer(path, body, sizeof body);
	if (failed)
		snprintf(body, sizeof body, "{\"error\":\"%s\"}", strerror(errno));
	dprintf(client, "HTTP/1.0 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
		!failed ? "200 OK" : errno == ENOENT ? "404 Not Found" : "500 Failed", strlen(body), body);
	shutdown(client, SHUT_WR);
	while (recv(client, request, sizeof request, 0) > 0)
		;
}

static void *serve(void *unused)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(80) };
	int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 16))
		die("port 80");
	for (;;) {
		int client = accept(listener, NULL, NULL);
		if (client < 0)
			continue;
		serve_one(client);
		close(client);
	}
	return unused;
}

/* ---- Boot, and the count ---- */

static void draw_token(void)
{
	unsigned char bytes[16];
	if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
		die("token");
	for (size_t i = 0; i < sizeof bytes; i++)
		sprintf(token + 2 * i, "%02x", bytes[i]);
}

static void read_boot_id(void)
{
	FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
	if (!file || fscanf(file, "%36s", boot_id) != 1)
		die("boot id");
	fclose(file);
}

int main(void)
{
	pthread_t server;
	struct timespec next;
	char line[LINE + 1];
	int console = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
	if (console < 0)
		console = open("/dev/console", O_RDWR | O_NOCTTY);
	dup2(console, 1);
	setvbuf(stdout, NULL, _IOLBF, 0);
	read_boot_id();
	draw_token();
	if (pthread_create(&server, NULL, serve, NULL))
		die("thread");
	int file = open(COUNT_FILE, O_WRONLY | O_CREAT | O_APPEND, 0644);
	if (file < 0)
		die(COUNT_FILE);
	clock_gettime(CLOCK_MONOTONIC, &next);
	for (;;) {
		unsigned long count = atomic_fetch_add(&counter, 1) + 1;
		format_line(line, count);
		if (write(file, line, LINE) != LINE)
			die("write to " COUNT_FILE);
		if (count % SYNC_EVERY == 0) {
			if (fsync(file))
				die("sync of " COUNT_FILE);
			atomic_store(&synced, count);
		}
		printf("ram=%lu disk=%lu uptime=%.3f wall=%lld\n", count, (unsigned long)synced, now_ms(CLOCK_MONOTONIC) / 1000.0,
			(long long)now_ms(CLOCK_REALTIME));
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		/* On the beat, unless a slow disk has made us late: a count stands for 100 ms, it is never made up for in haste. */
		struct timespec now;
		clock_gettime(CLOCK_MONOTONIC, &now);
		next.tv_nsec += TICK_NS;
		if (next.tv_nsec >= 1000000000L) {
			next.tv_sec++;
			next.tv_nsec -= 1000000000L;
		}
		if (now.tv_sec > next.tv_sec || (now.tv_sec == next.tv_sec && now.tv_nsec > next.tv_nsec))
			next = now;
		else
			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
}
