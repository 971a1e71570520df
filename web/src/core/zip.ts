// A zip of files that are stored as they are: enough to hand several files over in one download.

export interface NamedFile {
  readonly name: string;
  readonly bytes: Uint8Array;
}

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
  return c >>> 0;
});

export function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ TABLE[(crc ^ byte) & 255];
  return (crc ^ 0xffffffff) >>> 0;
}

export function zip(files: readonly NamedFile[]): Uint8Array {
  const parts: Uint8Array[] = [];
  const directory: Uint8Array[] = [];
  let at = 0;
  for (const { name, bytes } of files) {
    const encoded = new TextEncoder().encode(name);
    const crc = crc32(bytes);
    // version 2.0, UTF-8 names, stored, 1 January 1980
    const common = [20, 0x0800, 0, 0, 0x21];
    const local = record(0x04034b50, common, [crc, bytes.length, bytes.length], [encoded.length, 0]);
    const entry = record(
      0x02014b50,
      [20, ...common],
      [crc, bytes.length, bytes.length],
      [encoded.length, 0, 0, 0, 0],
      [0, at],
    );
    parts.push(local, encoded, bytes);
    directory.push(entry, encoded);
    at += local.length + encoded.length + bytes.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = record(0x06054b50, [0, 0, files.length, files.length], [size, at], [0]);
  return concat([...parts, ...directory, end]);
}

/** A signature, then groups of 16-bit and 32-bit numbers in turn. */
function record(signature: number, ...groups: number[][]): Uint8Array {
  const length = 4 + groups.reduce((sum, group, i) => sum + group.length * (i % 2 ? 4 : 2), 0);
  const view = new DataView(new ArrayBuffer(length));
  view.setUint32(0, signature, true);
  let at = 4;
  groups.forEach((group, i) => {
    for (const value of group) {
      if (i % 2) view.setUint32(at, value, true);
      else view.setUint16(at, value, true);
      at += i % 2 ? 4 : 2;
    }
  });
  return new Uint8Array(view.buffer);
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
