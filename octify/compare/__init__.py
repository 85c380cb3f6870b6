"""How far apart two models are: the one home of every such comparison."""
