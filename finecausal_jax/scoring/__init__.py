"""Scoring a split with several exemplars a dive, its metrics, baselines and reports."""
