"""Reinforcement of a trained model: rollouts, rewards, and the update that follows from them."""
