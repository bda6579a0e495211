"""What an answer is, and statistics of answers, without torch."""
