"""What is wrong with a pair of programs: findings with codes, places, and what to write instead."""
