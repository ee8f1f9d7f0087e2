"""Tests of the vocabulary that both jobs share."""
