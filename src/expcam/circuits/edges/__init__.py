"""What channels of one layer give to channels of the next."""
