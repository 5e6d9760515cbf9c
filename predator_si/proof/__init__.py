"""The commands that show each claim: ``demo``. What belongs here: driving the real parts and counting. What must not: any part of the product."""
