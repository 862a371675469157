"""The clock of a training: how many steps it has, with how many threads, and when it ends."""
