"""Reinforcement learning of the family head: TRL's GRPO on the numbers that decide."""
