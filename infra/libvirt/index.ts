/** libvirt's C API for Node: promises, typed errors, events, a thread for each call. */
export * from './connection.ts';
export * from './constants.ts';
export * from './error.ts';
export * from './shared-connection.ts';
