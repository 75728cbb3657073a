"""Running what was compiled for another CPU, under qemu's emulation of exactly that one."""
