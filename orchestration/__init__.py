"""How learning is run: experiments, the loop, Ray jobs, tracking, registry, command line."""
