"""What a classifier executes: its operations, what each does to channels, and one run of them."""
