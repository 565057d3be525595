/** A save file as libvirt 9 writes it, with anything for RAM. */
export function fakeSaveFile(options: {
  xml: string;
  cookie?: string | null;
  ram: Uint8Array | string;
  wasRunning?: boolean;
  complete?: boolean;
  /** Zeros behind XML and cookie; libvirt leaves 64 KiB. */
  padding?: number;
}): Buffer {
  const { xml, cookie = '<cookie>\n  <slirpHelper/>\n</cookie>\n', ram, wasRunning = false, complete = true } = options;
  const xmlBytes = Buffer.from(`${xml}\0`);
  const cookieBytes = Buffer.from(cookie === null ? '' : `${cookie}\0`);
  const data = Buffer.concat([xmlBytes, cookieBytes, Buffer.alloc(options.padding ?? 64 * 1024)]);
  const header = Buffer.alloc(92);
  header.write(complete ? 'LibvirtQemudSave' : 'LibvirtQemudPart', 'latin1');
  header.writeUInt32LE(2, 16);
  header.writeUInt32LE(data.length, 20);
  header.writeUInt32LE(wasRunning ? 1 : 0, 24);
  header.writeUInt32LE(cookie === null ? 0 : xmlBytes.length, 32);
  return Buffer.concat([header, data, Buffer.from('QEVM\0\0\0\x03', 'latin1'), Buffer.from(ram)]);
}
