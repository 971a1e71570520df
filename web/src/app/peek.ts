// Size of a picture from its first bytes, before anything is decoded: a small file can claim to be huge.

export async function peekSize(file: Blob): Promise<readonly [width: number, height: number] | null> {
  const view = new DataView(await file.slice(0, 262_144).arrayBuffer());
  try {
    if (view.getUint32(0) === 0x89504e47) return [view.getUint32(16), view.getUint32(20)];
    if (view.getUint32(0) === 0x47494638) return [view.getUint16(6, true), view.getUint16(8, true)];
    if (view.getUint16(0) === 0x424d) return [view.getInt32(18, true), Math.abs(view.getInt32(22, true))];
    if (view.getUint32(0) === 0x52494646 && view.getUint32(8) === 0x57454250) return webp(view);
    if (view.getUint16(0) === 0xffd8) return jpeg(view);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // shorter than its kind
  }
  return null;
}

function jpeg(view: DataView): readonly [number, number] | null {
  for (let at = 2; at < view.byteLength; ) {
    const marker = view.getUint16(at);
    const isFrame = marker >= 0xffc0 && marker <= 0xffcf && ![0xffc4, 0xffc8, 0xffcc].includes(marker);
    if (isFrame) return [view.getUint16(at + 7), view.getUint16(at + 5)];
    at += 2 + view.getUint16(at + 2);
  }
  return null;
}

function webp(view: DataView): readonly [number, number] | null {
  const kind = view.getUint32(12);
  const u24 = (at: number) => view.getUint16(at, true) | (view.getUint8(at + 2) << 16);
  if (kind === 0x56503858) return [u24(24) + 1, u24(27) + 1];
  if (kind === 0x56503820) return [view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff];
  if (kind === 0x5650384c) {
    const bits = view.getUint32(21, true);
    return [(bits & 0x3fff) + 1, ((bits >>> 14) & 0x3fff) + 1];
  }
  return null;
}
