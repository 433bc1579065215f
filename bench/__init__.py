"""How fast memdump is, and beside whom: each module is a comparison and prints ratios.

``python -m bench`` runs them all on guests that the lab boots; each also runs alone on images of your own.
What is compared runs in turns, and the best of the rounds counts, so that a busy machine disturbs both sides
alike.
"""
