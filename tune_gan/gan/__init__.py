"""What is tuned: networks, losses, data and the training loop. Knows torch, never ray or pandas."""
