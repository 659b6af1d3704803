"""What is decided before a race: cells, rules, the budget; and checks of the data and the disk."""
