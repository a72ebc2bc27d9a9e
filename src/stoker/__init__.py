"""Programmable compute for machine learning, on hardware you own."""
