/**
 * libvirt's numbers by libvirt's names, cut by the prefix that each comment gives. What is not here was not needed yet;
 * a test compares all of it with the headers of the machine.
 */

/** VIR_CONNECT_LIST_DOMAINS_*; 0 lists all. */
export const ListDomains = { ACTIVE: 1, INACTIVE: 2, PERSISTENT: 4, TRANSIENT: 8, RUNNING: 16, PAUSED: 32 } as const;

/** VIR_DOMAIN_* */
export const DomainState = {
  NOSTATE: 0,
  RUNNING: 1,
  BLOCKED: 2,
  PAUSED: 3,
  SHUTDOWN: 4,
  SHUTOFF: 5,
  CRASHED: 6,
  PMSUSPENDED: 7,
} as const;
export type DomainState = (typeof DomainState)[keyof typeof DomainState];

/** VIR_DOMAIN_RUNNING_*: why a domain is in this state. */
export const RunningReason = {
  UNKNOWN: 0,
  BOOTED: 1,
  MIGRATED: 2,
  RESTORED: 3,
  FROM_SNAPSHOT: 4,
  UNPAUSED: 5,
  MIGRATION_CANCELED: 6,
  SAVE_CANCELED: 7,
  WAKEUP: 8,
  CRASHED: 9,
} as const;

/** VIR_DOMAIN_PAUSED_* */
export const PausedReason = {
  UNKNOWN: 0,
  USER: 1,
  MIGRATION: 2,
  SAVE: 3,
  DUMP: 4,
  IOERROR: 5,
  WATCHDOG: 6,
  FROM_SNAPSHOT: 7,
  SHUTTING_DOWN: 8,
  SNAPSHOT: 9,
  CRASHED: 10,
  STARTING_UP: 11,
} as const;

/** VIR_DOMAIN_SHUTOFF_* */
export const ShutoffReason = {
  UNKNOWN: 0,
  SHUTDOWN: 1,
  DESTROYED: 2,
  CRASHED: 3,
  MIGRATED: 4,
  SAVED: 5,
  FAILED: 6,
  FROM_SNAPSHOT: 7,
  DAEMON: 8,
} as const;

/** VIR_DOMAIN_XML_* */
export const DomainXmlFlag = { SECURE: 1, INACTIVE: 2, UPDATE_CPU: 4, MIGRATABLE: 8 } as const;

/** VIR_DOMAIN_DEFINE_* */
export const DomainDefineFlag = { VALIDATE: 1 } as const;

/** VIR_DOMAIN_UNDEFINE_* */
export const DomainUndefineFlag = {
  MANAGED_SAVE: 1,
  SNAPSHOTS_METADATA: 2,
  NVRAM: 4,
  KEEP_NVRAM: 8,
  CHECKPOINTS_METADATA: 16,
  TPM: 32,
  KEEP_TPM: 64,
} as const;

/** VIR_DOMAIN_START_* */
export const DomainStartFlag = { PAUSED: 1, AUTODESTROY: 2, BYPASS_CACHE: 4, FORCE_BOOT: 8, VALIDATE: 16 } as const;

/** VIR_DOMAIN_DESTROY_* */
export const DomainDestroyFlag = { GRACEFUL: 1 } as const;

/** VIR_DOMAIN_SHUTDOWN_* */
export const DomainShutdownFlag = { ACPI_POWER_BTN: 1, GUEST_AGENT: 2 } as const;

/** VIR_DOMAIN_SAVE_*: for both save and restore. */
export const DomainSaveFlag = { BYPASS_CACHE: 1, RUNNING: 2, PAUSED: 4, RESET_NVRAM: 8 } as const;

/** VIR_DOMAIN_SAVE_IMAGE_XML_* */
export const SaveImageXmlFlag = { SECURE: 1 } as const;

/** VIR_DOMAIN_AFFECT_* */
export const DomainAffect = { CURRENT: 0, LIVE: 1, CONFIG: 2 } as const;

/** VIR_DOMAIN_METADATA_* */
export const DomainMetadataType = { DESCRIPTION: 0, TITLE: 1, ELEMENT: 2 } as const;

/** VIR_DOMAIN_TIME_* */
export const DomainTimeFlag = { SYNC: 1 } as const;

/** VIR_DOMAIN_SNAPSHOT_CREATE_* */
export const SnapshotCreateFlag = {
  REDEFINE: 1,
  CURRENT: 2,
  NO_METADATA: 4,
  HALT: 8,
  DISK_ONLY: 16,
  REUSE_EXT: 32,
  QUIESCE: 64,
  ATOMIC: 128,
  LIVE: 256,
  VALIDATE: 512,
} as const;

/** VIR_DOMAIN_JOB_* */
export const JobType = { NONE: 0, BOUNDED: 1, UNBOUNDED: 2, COMPLETED: 3, FAILED: 4, CANCELLED: 5 } as const;

/** VIR_DOMAIN_JOB_OPERATION_* */
export const JobOperation = {
  UNKNOWN: 0,
  START: 1,
  SAVE: 2,
  RESTORE: 3,
  MIGRATION_IN: 4,
  MIGRATION_OUT: 5,
  SNAPSHOT: 6,
  SNAPSHOT_REVERT: 7,
  DUMP: 8,
  BACKUP: 9,
} as const;

/** VIR_DOMAIN_JOB_STATS_* */
export const JobStatsFlag = { COMPLETED: 1, KEEP_COMPLETED: 2 } as const;

/** VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_*: or any number of seconds. */
export const AgentTimeout = { BLOCK: -2, DEFAULT: -1, NOWAIT: 0 } as const;

/** VIR_DOMAIN_QEMU_MONITOR_COMMAND_* */
export const MonitorCommandFlag = { DEFAULT: 0, HMP: 1 } as const;

/** VIR_CPU_COMPARE_* */
export const CpuCompareResult = { INCOMPATIBLE: 0, IDENTICAL: 1, SUPERSET: 2 } as const;
export type CpuCompareResult = (typeof CpuCompareResult)[keyof typeof CpuCompareResult];

/** VIR_CONNECT_COMPARE_CPU_* */
export const CompareCpuFlag = { FAIL_INCOMPATIBLE: 1, VALIDATE_XML: 2 } as const;

/** VIR_DOMAIN_EVENT_* */
export const LifecycleEvent = {
  DEFINED: 0,
  UNDEFINED: 1,
  STARTED: 2,
  SUSPENDED: 3,
  RESUMED: 4,
  STOPPED: 5,
  SHUTDOWN: 6,
  PMSUSPENDED: 7,
  CRASHED: 8,
} as const;
export type LifecycleEvent = (typeof LifecycleEvent)[keyof typeof LifecycleEvent];

/** VIR_DOMAIN_EVENT_STOPPED_*: the detail of STOPPED. */
export const StoppedDetail = {
  SHUTDOWN: 0,
  DESTROYED: 1,
  CRASHED: 2,
  MIGRATED: 3,
  SAVED: 4,
  FAILED: 5,
  FROM_SNAPSHOT: 6,
} as const;

/** VIR_CONNECT_CLOSE_REASON_* */
export const CloseReason = { ERROR: 0, EOF: 1, KEEPALIVE: 2, CLIENT: 3 } as const;
export type CloseReason = (typeof CloseReason)[keyof typeof CloseReason];

/** VIR_CONNECT_LIST_NETWORKS_*; 0 lists all. */
export const ListNetworks = { INACTIVE: 1, ACTIVE: 2, PERSISTENT: 4, TRANSIENT: 8, AUTOSTART: 16 } as const;

/** VIR_NETWORK_XML_* */
export const NetworkXmlFlag = { INACTIVE: 1 } as const;

/** VIR_NETWORK_UPDATE_COMMAND_* */
export const NetworkUpdateCommand = { MODIFY: 1, DELETE: 2, ADD_LAST: 3, ADD_FIRST: 4 } as const;

/** VIR_NETWORK_SECTION_* */
export const NetworkSection = {
  BRIDGE: 1,
  DOMAIN: 2,
  IP: 3,
  IP_DHCP_HOST: 4,
  IP_DHCP_RANGE: 5,
  FORWARD: 6,
  FORWARD_INTERFACE: 7,
  PORTGROUP: 9,
  DNS_HOST: 10,
  DNS_TXT: 11,
  DNS_SRV: 12,
} as const;

/** VIR_NETWORK_UPDATE_AFFECT_* */
export const NetworkUpdateAffect = { CURRENT: 0, LIVE: 1, CONFIG: 2 } as const;

/** VIR_FROM_*: the part of libvirt that reported an error. */
export const ErrorDomain = {
  NONE: 0,
  RPC: 7,
  QEMU: 10,
  TEST: 12,
  REMOTE: 13,
  NETWORK: 19,
  DOMAIN: 20,
  CPU: 31,
} as const;

/** VIR_ERR_* */
export const ErrorCode = {
  INTERNAL_ERROR: 1,
  NO_MEMORY: 2,
  NO_SUPPORT: 3,
  NO_CONNECT: 5,
  INVALID_CONN: 6,
  INVALID_ARG: 8,
  OPERATION_FAILED: 9,
  XML_ERROR: 27,
  DOM_EXIST: 28,
  OPERATION_DENIED: 29,
  OPEN_FAILED: 30,
  NETWORK_EXIST: 37,
  SYSTEM_ERROR: 38,
  RPC: 39,
  NO_DOMAIN: 42,
  NO_NETWORK: 43,
  AUTH_FAILED: 45,
  OPERATION_INVALID: 55,
  CONFIG_UNSUPPORTED: 67,
  OPERATION_TIMEOUT: 68,
  ARGUMENT_UNSUPPORTED: 74,
  OPERATION_ABORTED: 78,
  NO_DOMAIN_METADATA: 80,
  OPERATION_UNSUPPORTED: 84,
  AGENT_UNRESPONSIVE: 86,
  RESOURCE_BUSY: 87,
  ACCESS_DENIED: 88,
  CPU_INCOMPATIBLE: 91,
  XML_INVALID_SCHEMA: 92,
  AGENT_UNSYNCED: 97,
  DEVICE_MISSING: 99,
} as const;
export type ErrorCode = (typeof ErrorCode)[keyof typeof ErrorCode];
