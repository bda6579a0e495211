"""How a student learns from a teacher: terms, and the recorded teacher."""
