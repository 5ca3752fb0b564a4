"""The flags users type; what stands here may grow and must not go."""

import argparse
import importlib

import pytest

SURFACE = {
    "demo": "--out --epochs --seeds --teacher-epochs --json",
    "extract": """
        --data --labels --label-member --image-member --tar-keys --key-prefix --class-order --class-map
        --limit --per-class --per-class-seed --order --max-bad --image-timeout
        --teacher --teacher-weights --teacher-kwargs --precision
        --device --cpu-threads --batch-size --tap --codec --max-error --images --statistics --views --view-recipe
        --view-params --image-size --interpolation --exif --alpha-color --seed --out --add --group --pixels --split
        --shard-samples --threads --no-space-check --accept-versions --json --engine --ray-address --ray-actors""",
    "plan": """
        --data --labels --label-member --image-member --tar-keys --key-prefix --class-order --class-map
        --limit --per-class --per-class-seed --order --max-bad --image-timeout
        --teacher --teacher-weights --teacher-kwargs --precision
        --device --cpu-threads --batch-size --tap --codec --max-error --statistics --pixels --reference-images --views
        --view-recipe --view-params --image-size --interpolation --exif --alpha-color --seed --images --image-kb
        --student --student-kwargs --student-batch-size --epochs --disk --seconds --json""",
    "convert": """
        --codec --group --column --name --max-error --out --json --data --teacher --teacher-kwargs --tap --tensor
        --shard-samples --labels --label-member --image-member --tar-keys --key-prefix --class-order --class-map""",
    "verify": "--group --repair --rebuild --accept-loss --source --rerun-teacher --teacher-weights --data --device "
    "--json",
    "show": "--json --group --picture --key --view --column --data",
    "train": """
        --cache --out --student --student-kwargs --student-weights --method --change --term --data --per-class
        --per-class-seed --codec --teacher --teacher-weights --beside --epochs --batch-size --eval-data --seed --device
        --tensorboard --set --accept-versions --json --recipes""",
    "sweep": """
        --ranks --seeds --teacher-accuracy --group
        --cache --out --student --student-kwargs --student-weights --method --change --term --data --per-class
        --per-class-seed --codec --teacher --teacher-weights --beside --epochs --batch-size --eval-data --seed --device
        --tensorboard --set --accept-versions --json --recipes""",
    "eval": """
        --data --weights --batch-size --predictions --device --json
        --labels --label-member --image-member --tar-keys --key-prefix --class-order --class-map
        --probe --probe-data --probe-token --probe-seeds --probe-set""",
    "export": "--out --weights --onnx --replace --json",
    "analyze": """
        --column --group --model --weights --model-kwargs --image-size --run --tap --data --images --batch-size
        --permutations --seed --device --student --student-kwargs --rank-table --teacher-accuracy --out --json""",
    "report": "--out --title",
}


@pytest.mark.parametrize("verb", SURFACE)
def test_flags_stay(verb: str) -> None:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"kdcache.cli.{verb}").add_arguments(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings} - {"-h", "--help"}
    assert flags == set(SURFACE[verb].split())
