/*
 * The wrong clock of a simulated host. Named in the host's /etc/ld.so.preload, so every dynamically linked program that
 * starts there has it, whatever its environment. The offset in seconds stands in /etc/clock-offset.
 *
 * Only what the system calls real time is wrong: clocks that count from the boot are right, and whoever waits until a
 * moment of real time waits no longer and no shorter than he means to. No locks and no memory of its own: it must work
 * between fork and exec.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define OFFSET_FILE "/etc/clock-offset"

static time_t offset;

__attribute__((constructor)) static void read_offset(void)
{
	char text[32] = "";
	int file = open(OFFSET_FILE, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return;
	if (read(file, text, sizeof text - 1) > 0)
		offset = strtol(text, NULL, 10);
	close(file);
}

static int is_real(clockid_t clock)
{
	return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
}

/* ---- Asking for the time ---- */

int clock_gettime(clockid_t clock, struct timespec *time)
{
	static int (*next)(clockid_t, struct timespec *);
	if (!next)
		next = dlsym(RTLD_NEXT, "clock_gettime");
	int result = next(clock, time);
	if (result == 0 && is_real(clock))
		time->tv_sec += offset;
	return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
	struct timespec now;
	(void)zone;
	clock_gettime(CLOCK_REALTIME, &now);
	time->tv_sec = now.tv_sec;
	time->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *result)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	if (result)
		*result = now.tv_sec;
	return now.tv_sec;
}

int timespec_get(struct timespec *time, int base)
{
	return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, time) == 0 ? base : 0;
}

/* ---- Waiting until a moment ---- */

static struct timespec true_time(const struct timespec *moment)
{
	struct timespec result = *moment;
	result.tv_sec -= offset;
	return result;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *moment, struct timespec *rest)
{
	static int (*next)(clockid_t, int, const struct timespec *, struct timespec *);
	if (!next)
		next = dlsym(RTLD_NEXT, "clock_nanosleep");
	if (!(flags & TIMER_ABSTIME) || !is_real(clock))
		return next(clock, flags, moment, rest);
	struct timespec wanted = true_time(moment);
	return next(clock, flags, &wanted, rest);
}

/* glibc: the condition variable counts from the boot. */
#define COND_IS_MONOTONIC 2

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, const struct timespec *restrict moment)
{
	static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
	if (!next) /* without its version, dlsym may find that of another, older kind of condition variable */
		next = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
	if (!next)
		next = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
	if (cond->__data.__wrefs & COND_IS_MONOTONIC)
		return next(cond, mutex, moment);
	struct timespec wanted = true_time(moment);
	return next(cond, mutex, &wanted);
}

int pthread_cond_clockwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, clockid_t clock,
	const struct timespec *restrict moment)
{
	static int (*next)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
	if (!next)
		next = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
	struct timespec wanted = is_real(clock) ? true_time(moment) : *moment;
	return next(cond, mutex, clock, &wanted);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict moment)
{
	static int (*next)(pthread_mutex_t *, const struct timespec *);
	if (!next)
		next = dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
	struct timespec wanted = true_time(moment);
	return next(mutex, &wanted);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict moment)
{
	static int (*next)(sem_t *, const struct timespec *);
	if (!next)
		next = dlsym(RTLD_NEXT, "sem_timedwait");
	struct timespec wanted = true_time(moment);
	return next(semaphore, &wanted);
}
