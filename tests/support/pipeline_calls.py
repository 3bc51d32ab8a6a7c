"""What a pipeline's own call hands to its network, and what that answers."""


def first_call(pipe, network, prompt, **given):
    """(arguments by name or position, output) of the first step."""
    return network_calls(pipe, network, prompt, **given)[0]


def network_calls(pipe, network, prompt, **given):
    """The same of all calls, of which a step may have two; of no prompt where that is None."""
    calls = []
    given = given if prompt is None else {"prompt": prompt, **given}

    def note(module, args, kwargs, out):
        calls.append(({**dict(enumerate(args)), **kwargs}, out[0]))

    hook = network.register_forward_hook(note, with_kwargs=True)
    try:
        pipe(num_inference_steps=2, output_type="latent", **given)
    finally:
        hook.remove()
    return calls
