"""A frozen classifier with its transform and labels: torchvision, a file, the bundled one, yours."""
