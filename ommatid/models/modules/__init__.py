"""Published parts, each as a registered model of its own, so that it is verified like the whole architectures."""
