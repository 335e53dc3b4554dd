#!/usr/bin/python3 -I
# SPDX-License-Identifier: Apache-2.0
"""Write the ELF kernel inside an x86 bzImage: extract-vmlinux.py BZIMAGE VMLINUX.

Emulated, a kernel takes longer to unpack itself than to boot. qemu starts the ELF file directly
(PVH). The place of the compressed payload stands in the boot header (Linux:
Documentation/arch/x86/boot.rst).
"""
import struct
import subprocess
import sys

SETUP_SECTS, VERSION, PAYLOAD = 0x1F1, 0x206, 0x248
UNPACK = {
    b"\xfd7zXZ\0": ["xz", "-dc", "--single-stream"],
    b"\x28\xb5\x2f\xfd": ["zstd", "-dcq"],
    b"\x1f\x8b": ["gzip", "-dcq"],
}


def payload(image):
    """The compressed bytes, without the word that follows them and gives their unpacked size."""
    if image[0x202:0x206] != b"HdrS" or struct.unpack_from("<H", image, VERSION)[0] < 0x208:
        sys.exit("not a bzImage of boot protocol 2.08 or later")
    offset, length = struct.unpack_from("<II", image, PAYLOAD)
    start = (image[SETUP_SECTS] + 1) * 512 + offset
    return image[start:start + length - 4]


def unpack(data):
    for magic, command in UNPACK.items():
        if data.startswith(magic):
            return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout
    sys.exit(f"unknown compression: {data[:6].hex()}")


def main(bzimage, vmlinux):
    with open(bzimage, "rb") as file:
        elf = unpack(payload(file.read()))
    if not elf.startswith(b"\x7fELF"):
        sys.exit("the payload is no ELF file")
    with open(vmlinux, "wb") as file:
        file.write(elf)


main(*sys.argv[1:])
