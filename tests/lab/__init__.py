"""The lab: real Debian kernels in real guests, and the truth about them as the guests wrote it down."""
