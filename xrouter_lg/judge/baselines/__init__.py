"""What any router has to beat.

Learned ones say what they expect of each model (`learned`), then `choose` decides at each cost
weight; those that call several models, or none by name, come as curves (`cascades`, `curve`).
"""
