"""The commands of `lacos-st`, a file each: `add` declares one, a function of its name runs it and prints."""
