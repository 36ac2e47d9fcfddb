"""How a function is mapped over stacked networks: at once, in a loop, or unrolled."""
