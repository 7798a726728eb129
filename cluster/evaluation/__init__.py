"""How good the answers are: test collections, stages of the funnel, and which settings suit a
model.
"""
