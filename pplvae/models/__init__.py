"""Shipped models."""
from pplvae.models.linear import PPCA, FactorAnalysis
