"""Running what was compiled for another CPU, under qemu's user-mode emulation of exactly that one."""
