"""What a guide does to the latents: whether its uncertainty is honest, and how much of it is used."""
