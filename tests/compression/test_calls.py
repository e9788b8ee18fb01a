"""Recorded calls: what is kept of them, when two are alike, and how they are replayed."""

from __future__ import annotations

import torch
from torch import nn

from sparseq.compression.calls import Call, Replay, record_calls, tensors_in
from sparseq.compression.example import observe


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.ids = nn.Embedding(9, 4)

    def forward(self, x, ids):
        return self.c(self.b(input=self.a(x))) + self.c(self.ids(ids))


def test_each_call_is_kept_with_its_arguments_and_the_size_of_its_output():
    net, x, ids = Net(), torch.randn(3, 4), torch.tensor([1, 2, 3])
    modules = {"a": net.a, "b": net.b, "c": net.c}
    calls, y = record_calls(modules, lambda: net(x, ids))
    assert torch.equal(y, net(x, ids))
    assert [len(seen) for seen in calls.values()] == [1, 1, 2]
    (a,), (b,), c = calls.values()
    assert torch.equal(a.args[0], x)
    assert torch.equal(b.kwargs["input"], net.a(x))
    assert (a.outputs, c[0].outputs) == (12, 6)
    assert [call.args[0].requires_grad for call in (a, *c)] == [False, True, True]
    assert all(call.args[0].grad_fn is None for call in c)
    assert not any(module._forward_hooks for module in net.modules())


def test_hooks_are_removed_after_an_error():
    net = Net()
    try:
        record_calls({"a": net.a}, lambda: net.a(torch.randn(3, 5)))
    except RuntimeError:
        assert not net.a._forward_hooks
    else:
        raise AssertionError("the shapes do not fit")


def test_a_network_is_observed_with_one_tensor_for_all_calls_alike():
    net, call = Net(), Call((torch.randn(3, 4), torch.tensor([1, 2, 3])), {})
    _, calls, outputs = observe(net, ["a", "c", "ids"], call)
    (a,), c, (ids,) = calls.values()
    assert a.args[0] is c[0].args[0] is c[1].args[0]
    assert (a.outputs, c[0].outputs) == (12, 6)
    assert ids.args[0] is not a.args[0]
    assert [y.shape for y in outputs] == [(3, 2)]


def test_what_makes_calls_alike():
    x = torch.randn(4, 4)
    alike = Call((x,), {}), Call((x.clone(),), {}, 5)
    others = [Call((y,), {}) for y in (x[:2], x.t(), x.double(), x.clone().requires_grad_())]
    others.append(Call((), {"input": x}))
    seen: dict[str, Call] = {}
    kept = [call.like(seen) for call in (*alike, *others)]
    assert kept[1] == Call(kept[0].args, {}, 5)
    assert len(seen) == len(others) + 1
    ids = [Call((torch.tensor([n]),), {}).like(seen) for n in (1, 2)]
    assert [int(call.args[0]) for call in ids] == [1, 2]


def test_a_replay_in_training_starts_without_gradients():
    net, x = nn.Linear(4, 2), torch.randn(3, 4).requires_grad_()
    work = Replay(net, Call((x,), {}), training=True)
    work()
    first = [net.weight.grad.clone(), x.grad.clone()]
    work()
    assert all(map(torch.equal, [net.weight.grad, x.grad], first))
    torch.testing.assert_close(x.grad, net.weight.detach().sum(0).expand(3, 4))


def test_a_replay_of_inference_or_of_frozen_modules_leaves_no_gradient():
    net, x = nn.Linear(4, 2), torch.randn(3, 4)
    Replay(net, Call((x,), {}), training=False)()
    net.requires_grad_(False)
    assert torch.equal(Replay(net, Call((x,), {}), training=True)(), net(x))
    assert net.weight.grad is None


def test_tensors_are_found_in_nested_values():
    one, two, three = (torch.tensor(n) for n in (1, 2, 3))
    nested = {"a": [one, (two, "text")], "b": {"c": three, "d": None}}
    assert [int(tensor) for tensor in tensors_in(nested)] == [1, 2, 3]
    assert list(tensors_in(["text", 3, None])) == []
