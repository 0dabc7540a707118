"""What others use to make trained networks smaller, on the same networks, data and fine-tuning: see peers.py."""
