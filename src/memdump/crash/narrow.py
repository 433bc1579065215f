"""Programs of 32 bits: drgn knows their memory and symbols, but neither their registers nor how to unwind."""

PC, SP = "eip", "esp"
NOT_UNWOUND = (
    "stacks of 32-bit programs are not unwound: only where each thread was is told; gdb shows who called"
)
