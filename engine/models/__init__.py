"""Networks and what is read off them."""
