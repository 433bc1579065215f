"""Tests of acquisition."""
