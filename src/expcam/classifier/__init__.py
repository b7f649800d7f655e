"""A frozen classifier with its transform and labels: torchvision's, a file, bundled, yours."""
