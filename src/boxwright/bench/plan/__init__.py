"""What is decided before a race: cells, rules, the budget, checks of the data and the disk."""
