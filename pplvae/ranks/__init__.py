"""The processes of one job, as torchrun starts them: the only room that knows `torch.distributed`."""
