"""Running what was compiled for another CPU, under an emulator of exactly that one."""
