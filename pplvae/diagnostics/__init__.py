"""What a guide does to the latents: whether its uncertainty is honest, and how much of it is used."""

from pplvae.diagnostics.calibration import Calibration, calibrate
from pplvae.diagnostics.joint import JointDivergence, joint_kl
from pplvae.diagnostics.latent_use import LatentUse, latent_use

__all__ = ["Calibration", "JointDivergence", "LatentUse", "calibrate", "joint_kl", "latent_use"]
