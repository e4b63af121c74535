"""Wrong input gives a one-line error that names the key, and leaves no files: `make test-faults`.

Each input runs in a process of its own in an empty folder, forked from one that has imported the commands.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ilt.cli.main import COMMANDS

pytestmark = pytest.mark.slow

PROGRAM = """
import atexit, importlib, json, os, signal, sys
from ilt.cli import main
for command in main.COMMANDS:
    importlib.import_module(f"ilt.cli.{command.replace('-', '_')}")
for line in sys.stdin:
    folder, arguments = json.loads(line)
    if (child := os.fork()):
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    signal.alarm(300)
    for descriptor, name in ((1, "printed"), (2, "said")):
        os.dup2(os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(folder)
    atexit.register(lambda: print("torch" in sys.modules))
    sys.argv = ["ilt", *arguments]
    main.main()
    sys.exit()
"""
"""Types inputs, each in a child process, and prints the exit code of each. A child prints whether it imported torch."""

WITHOUT_KEYS = {"WANDB_MODE": "offline", "WANDB_API_KEY": "", "NETRC": os.devnull, "OMP_NUM_THREADS": "1"}
EMPTY = {Path(), Path("outputs"), Path("outputs/runs")}
"""Folders that may remain."""

EARLY = r"""
[train: callbacks]
callbacks.last.filename=foo -> callbacks.last.filename is not a key
+callbacks.last.filename=foo -> callbacks.last.filename is not a key
callbacks.best.filename=foo -> callbacks.best.filename is not a key
+callbacks.best.filename=foo -> callbacks.best.filename is not a key
+callbacks.last.save_top_k=0 -> callbacks.last.save_top_k is not a key
+callbacks.rollout.foo=4 -> callbacks.rollout.foo is not a key
callbacks.best.mode=up -> callbacks.best.mode is not a key
+callbacks.best.mode=up -> callbacks.best.mode is not a key
+callbacks.best.monitor=nothing -> callbacks.best.monitor is not a key
callbacks=foo -> callbacks must be one of ['best', 'curve', 'default', 'ema', 'last', 'preemption',
callbacks=null -> callbacks=null is not an option of a group; a group takes a name, such as model=tiny
callbacks.ema.decay=1 -> callbacks.ema.decay must be a number at least 0 and below 1, got 1
callbacks.ema.decay=nan -> callbacks.ema.decay must be a number at least 0 and below 1, got nan
callbacks.rollout=null -> callbacks.rollout must be set; results are made from it. Only best and ema may be null
callbacks.best=null evaluation.reported_checkpoint=best -> evaluation.reported_checkpoint must be last where
callbacks.last=null -> callbacks.last must be set; results are made from it. Only best and ema may be null
callbacks.rollout.n_episodes=0 -> callbacks.rollout.n_episodes must be an integer of at least 1, got 0
callbacks.rollout.n_episodes=2.5 -> callbacks.rollout.n_episodes must be an integer of at least 1, got 2.5
+callbacks.own=3 -> callbacks.own must be a mapping, got 3
+callbacks.own.foo=3 -> callbacks.own._target_ must be the dotted path of something that can be imported, got
+callbacks.own._target_=foo.Bar -> callbacks.own._target_ must be the dotted path of something that can be
[train: trainer]
+trainer.limit_val_batches=0 -> trainer.limit_val_batches cannot be set: training and validation use all windows;
+trainer.fast_dev_run=true -> trainer.fast_dev_run cannot be set: a run needs its checkpoints and rollout
trainer.precision=16-mixed -> trainer.precision must be auto, 32-true, bf16-mixed or 64-true on a CPU, got 16-mixed
trainer.precision=8 -> trainer.precision must be one of ['auto', '32-true', 'bf16-mixed', '16-mixed', '64-true'],
trainer.compile=sometimes -> trainer.compile must be true, false or auto, got 'sometimes'
trainer.accelerator=tpu -> trainer.accelerator must be one of ['auto', 'cpu', 'gpu'], got 'tpu'
+trainer.max_stepz=4 -> trainer.max_stepz is not a key; did you mean trainer.max_steps?
trainer.max_stepz=4 -> trainer.max_stepz is not a key; did you mean trainer.max_steps?
+trainer.strategy=ddp -> trainer.strategy cannot be set: it follows from trainer.devices
trainer.devices=1000 dataset.batch_size=1000 -> trainer.devices must be at most
trainer.zzz=1 -> trainer.zzz is not a key
imitation=dagger trainer.devices=2 -> trainer.devices must be 1 where imitation.rounds is above 0, got 2
trainer=foo -> trainer must be one of ['cpu', 'ddp', 'gpu', 'lightning', 'smoke'], got 'foo'
trainer.max_steps=0 -> trainer.max_steps must be a positive multiple of trainer.val_check_interval = 200, so
trainer.max_steps=-2 -> trainer.max_steps must be an integer from -1 to 2147483647, got -2
trainer.max_epochs=3 -> trainer.max_epochs must be -1 where trainer.check_val_every_n_epoch is null, got 3
trainer.val_check_interval=0 -> trainer.val_check_interval must be an integer of at least 1 (steps), or 1.0 (the
trainer.val_check_interval=0.5 -> trainer.val_check_interval must be an integer of at least 1 (steps), or 1.0 (the
trainer.check_val_every_n_epoch=1 -> trainer.val_check_interval must be 1.0, the end of an epoch, where
trainer.num_nodes=0 -> trainer.num_nodes must be an integer of at least 1, got 0
trainer.num_nodes=2 -> trainer.num_nodes must be 1 where neither torchrun nor srun starts the processes, got
trainer.gradient_clip_val=0 -> trainer.gradient_clip_val must be a number above 0, or null, got 0
trainer.gradient_clip_val=nan -> trainer.gradient_clip_val must be a number above 0, or null, got nan
trainer.gradient_clip_algorithm=sum -> trainer.gradient_clip_algorithm must be one of ['norm', 'value'], or null,
trainer.log_every_n_steps=0 -> trainer.log_every_n_steps must be an integer of at least 1, got 0
trainer.deterministic=warn -> trainer.deterministic must be true or false, or null, got 'warn'
trainer.detect_anomaly=3 -> trainer.detect_anomaly must be true or false, got 3
+trainer.max_time=00:01 -> trainer.max_time cannot be set: a run is finished at its last step; trainer.max_steps
+trainer.accumulate_grad_batches=2 -> trainer.accumulate_grad_batches cannot be set: a resumed run finds its
+trainer.overfit_batches=1 -> trainer.overfit_batches cannot be set: training and validation data are different;
+trainer.logger=false -> trainer.logger cannot be set: loggers have their own group, such as logger=csv
+trainer.callbacks=[] -> trainer.callbacks cannot be set: callbacks have their own group, such as
[train: other keys]
seed=4294967296 -> seed must be an integer from 0 to 4294967295, got 4294967296
seed=9223372036854775808 -> seed must be an integer from 0 to 4294967295, got 9223372036854775808
search.space={} -> search.space is not a key
outputs=GIVEN/text -> outputs must be a folder, but
run_name=../../evil -> run_name must be a folder name of at most 200 bytes that does not start with a
run_name=.. -> run_name must be a folder name of at most 200 bytes that does not start with a
outputs= -> outputs must be text, got ''
search.trial=3 -> search.trial is not a key
+search.trial=3 -> search.trial cannot be set: a search numbers its trials
batch_size=8 -> batch_size is not a key; did you mean expert.batch_size or dataset.batch_size?
n_layer=3 -> n_layer is not a key; did you mean model.n_layer?
n_episodes=3 -> n_episodes is not a key; did you mean demos.n_episodes or
name=foo -> name is not a key; did you mean expert.name or logger.name?
learning_rate=3 -> learning_rate is not a key; did you mean expert.learning_rate or
modle.n_layers=3 -> modle.n_layers is not a key; did you mean model.n_layer?
foo=1 -> foo is not a key
resume=yes2 -> resume must be true or false, got 'yes2'
resume=1 -> resume must be true or false, got 1
n_envs=0 -> n_envs must be an integer of at least 1, got 0
n_envs=many -> n_envs must be an integer of at least 1, got 'many'
processes=0 -> processes must be an integer from 1 to 1024, or null, got 0
processes=1000000 -> processes must be an integer from 1 to 1024, or null, got 1000000
threads=0 -> threads must be an integer from 1 to 1024, or null, got 0
threads=1000000 -> threads must be an integer from 1 to 1024, or null, got 1000000
+foo=1 -> foo is not a key
modle=tiny -> modle is not a key; did you mean model?
+modl=tiny -> modl is not a key; did you mean model?
experimnt=smoke -> experimnt is not a key; did you mean experiment?
experiment=foo -> experiment must be one of ['acrobot', 'adapt', 'bipedal_walker', 'bipedal_walker_blind',
+experiment=foo -> experiment must be one of ['acrobot', 'adapt', 'bipedal_walker', 'bipedal_walker_blind',
sweep=foo -> sweep must be one of ['optuna'], got 'foo'
search=default -> search is not a group of ilt train
+search=default -> search.study_name must be given; it must be a name of letters, digits, _ and -
[train: env]
env.seed_blocks.test=[9223372036854775807,10] -> env.seed_blocks.test must end below 2^63, got
env.kwargs.gravity=-5 -> env.kwargs.gravity is not a key; +env.kwargs.gravity=… adds it
env.id= -> env.id must be text, got ''
env.id=null -> env.id must be text, got None
env=foo -> env must be one of ['acrobot', 'bipedal_walker', 'bipedal_walker_blind',
env=gymnasium -> env.id must be given
env.kwargs=3 -> env.kwargs must be a mapping, got 3
+env.kwargs.gravity=high -> env.kwargs must be arguments of LunarLander-v3, got {'gravity': 'high'}: '<' not
+env.kwargs.foo=1 -> env.kwargs must be arguments of LunarLander-v3, got {'foo': 1}:
+env.kwargs.max_episode_steps=0 -> env.kwargs.max_episode_steps must be a number of steps, or -1 for no limit, got 0
+env.kwargs.max_episode_steps=x -> env.kwargs.max_episode_steps must be a number of steps, or -1 for no limit, got
+env.kwargs.render_mode=human -> env.kwargs.render_mode cannot be set: only videos render; evaluation.video=true
env.wrappers=3 -> env.wrappers must be a mapping, got 3
+env.wrappers.own=3 -> env.wrappers.own must be a mapping, got 3
+env.wrappers.own.foo=3 -> env.wrappers.own._target_ must be the dotted path of something that can be imported,
+env.wrappers.own._target_=nowhere.Wrapper -> env.wrappers.own._target_ must be the dotted path of something that
+env.wrappers.own._target_=ilt.envs.wrappers.MaskObservation -> env.wrappers.own.hide must be given; it must be a
+env.wrappers.own={_target_:ilt.envs.wrappers.MaskObservation,hide:3} -> env.wrappers.own.hide must be a list of an
env=lunar_lander_hidden env.wrappers.randomized_physics.gravity=3 -> env.wrappers.randomized_physics.gravity must
env=lunar_lander_hidden env.wrappers.randomized_physics.gravity=[3] -> env.wrappers.randomized_physics.gravity must
env=lunar_lander_hidden +env.wrappers.randomized_physics.foo=[0,1] -> env.wrappers.randomized_physics.foo must be
env=lunar_lander_hidden env.wrappers.randomized_physics.wind_power=[0,inf] -> env.wrappers.randomized_physics.wind_p
env=pendulum_hidden env.wrappers.randomized_physics.m=[0,1] -> env.wrappers.randomized_physics.m must be [lowest,
env=pendulum_hidden +env.wrappers.randomized_physics.foo=[1,2] -> env.wrappers.randomized_physics.foo must be one of
env=pendulum_hidden env.wrappers.randomized_physics.m=null -> env.wrappers.randomized_physics.m must be [lowest,
env=acrobot +env.wrappers.a._target_=ilt.envs.physics.RandomizedPhysics -> env.wrappers: RandomizedPhysics must be given
env.success_return=high -> env.success_return must be a number, or null, got 'high'
env.success_return=nan -> env.success_return must be a number, or null, got nan
env.crash_reward=low -> env.crash_reward must be a number, or null, got 'low'
env.gate=true -> env.gate must be a number, or null, got True
env.gate=inf -> env.gate must be a number, or null, got inf
env.heuristic=3 -> env.heuristic must be text, or null, got 3
expert=heuristic env.heuristic=null -> env.heuristic must name a controller for expert=heuristic, got null for
env.seed_blocks=3 -> env.seed_blocks must be a mapping, got 3
env.seed_blocks=null -> env.seed_blocks must be a mapping, got None
env.seed_blocks.test=7 -> env.seed_blocks.test must be a list of 2 values, each an integer of at least 0, got 7
+env.seed_blocks.foo=[0,10] -> env.seed_blocks must name ['demonstrations', 'validation', 'selection', 'test'], got
env._target_=3 -> env._target_ must be the dotted path of something that can be imported, got 3
+env.trust=[os] -> env.trust is not a key
+env.foo=1 -> env.foo is not a key
env.foo=1 -> env.foo is not a key
env._target_=os.getcwd -> env._target_ must be ilt.envs.spec.EnvSpec, with env.id naming your environment, got
[train: without a GPU]
trainer=gpu -> trainer.accelerator must be one that this machine has, got gpu; trainer=cpu needs none
trainer.accelerator=gpu -> trainer.accelerator must be one that this machine has, got gpu; trainer=cpu needs none
[train: dataset]
dataset.episodes=1e-12 -> dataset.episodes must be at least half an episode of demos.n_episodes = 1000, got
dataset.context_length=1e9 -> dataset.context_length must be an integer of at least 1, got 1000000000.0
dataset.context_length=1000000000 -> dataset.context_length=1000000000 must be smaller: at least 31,999,999,968 GB
trainer.devices=1000 -> dataset.batch_size must be divisible by trainer.devices = 1000 (of all machines),
dataset.stride=0 -> dataset.stride must be an integer of at least 1, got 0
dataset.stride=9 -> dataset.stride must be at most dataset.context_length = 8, or steps would be skipped,
dataset.episodes=0 -> dataset.episodes must be a number of episodes (an integer of at least 1) or a
dataset.batch_size=0 -> dataset.batch_size must be an integer of at least 1, got 0
dataset=foo -> dataset must be one of ['windows'], got 'foo'
+dataset.shuffle=true -> dataset.shuffle is not a key
dataset.tokens=returns -> dataset.tokens must be one of ['states_actions', 'returns_states_actions'], got 'returns'
dataset._target_=nowhere.Dataset -> dataset._target_ must be the dotted path of something that can be imported, got
[train: demos]
+demos.filters.foo=1 -> demos.filters.foo is not a key
demos=foo -> demos must be one of ['expert', 'expert_100', 'expert_100_20', 'expert_20',
demos.n_episodes=0 -> demos.n_episodes must be an integer of at least 1, got 0
demos.n_episodes=10.0 -> demos.n_episodes must be an integer of at least 1, got 10.0
demos.n_validation_episodes=0 -> demos.n_validation_episodes must be an integer of at least 1, got 0
demos.n_validation_episodes=10000000 -> demos.n_validation_episodes must be at most 1000000, the size of
demos.filters.min_return=high -> demos.filters.min_return must be a number, or null, got 'high'
demos.filters.min_return=nan -> demos.filters.min_return must be a number, or null, got nan
demos.filters.drop_truncated=3 -> demos.filters.drop_truncated must be true or false, got 3
demos.filters=null -> demos.filters must be a mapping, got None
demos.filters=3 -> demos.filters must be a mapping, got 3
+demos.foo=1 -> demos.foo is not a key
demos=file -> demos.path must be given; it must be text
env=none -> demos must be recordings where env=none, such as demos=file or demos=minari, got expert
env=none expert=none -> demos must be recordings where env=none, such as demos=file or demos=minari, got expert
env=none demos=mixed demos.parts={a:{expert:random,n_episodes:1,n_validation_episodes:1}} -> demos must be recordings
env=none demos=minari demos.id=a-v0 expert=ppo -> expert must be none where env=none, since there is nothing to act in
env=none demos=minari demos.id=a-v0 imitation=dagger -> imitation.rounds must be 0 where env=none, since rounds collect
env=none demos=minari demos.id=a-v0 evaluation.reported_checkpoint=best -> evaluation.reported_checkpoint must be last
env=none demos=minari demos.id=a-v0 env.gate=3 -> env.gate cannot be set where env=none, got 3
env=none demos=minari demos.id=a-v0 +env.kwargs.gravity=3 -> env.kwargs cannot be set where env=none, got
demos=mixed -> demos.parts must be given; it must be a mapping of parts by name
demos=mixed demos.parts={} -> demos.parts must be a mapping of parts by name, got {}
demos=mixed demos.parts={a:3} -> demos.parts.a must be a mapping, got 3
demos=mixed demos.parts={a:{expert:random}} -> demos.parts.a.n_episodes must be given; it must be an integer
demos=mixed demos.parts={a:{expert:foo,n_episodes:1,n_validation_episodes:1}} -> demos.parts.a.expert must be one of
demos=mixed demos.parts={a:{expert:random,settings:{foo:1},n_episodes:1,n_validation_episodes:1}} -> demos.parts.a.set
demos=file demos.path=GIVEN/text demos.validation_path=GIVEN/text -> demos.path must be a file that can be read, got
demos=file demos.path=GIVEN/empty.zip demos.validation_path=GIVEN/empty.zip -> demos.path must be a file that contains
demos=minari -> demos.id must be given; it must be the id of a Minari data set, such as mujoco/hopper/expert-v0
demos=minari demos.id=../secret-v0 -> demos.id must be the id of a Minari data set, such as mujoco/hopper/expert-v0, got
demos=minari demos.id=hopper -> demos.id must be the id of a Minari data set, such as mujoco/hopper/expert-v0, got
demos=minari demos.id=a-v0 demos.validation_fraction=1 -> demos.validation_fraction must be a number above 0 and below 1
demos=minari demos.id=nobody/nothing-v0 demos.download=false -> demos.id must be a local data set where demos.download
expert=none -> expert must be one that demonstrates where demos=expert, got none; recordings need none
[train: model]
model.d_model=1e8 -> model.d_model must be an integer of at least 1, got 100000000.0
model.d_model=100000000 -> model.d_model=100000000, model.n_layer=2 must be smaller: at least 1,920,000,000 GB
model=[tiny,small] -> model=[tiny,small] is not an option of a group; a group takes one name, such as model=tiny
model=foo -> model must be one of ['base', 'gru', 'linear', 'lstm', 'mini', 'mlp', 'mlp_stack', 'nano',
model.n_layer=0 -> model.n_layer must be an integer of at least 1, got 0
model.n_layer=1.5 -> model.n_layer must be an integer of at least 1, got 1.5
model.n_head=0 -> model.n_head must be an integer of at least 1, got 0
model.n_head=3 -> model.d_model must be divisible by model.n_head = 3, got 32
model.dropout=1 -> model.dropout must be a number at least 0 and below 1, got 1
model.dropout=-0.1 -> model.dropout must be a number at least 0 and below 1, got -0.1
model.positions=sinusoidal -> model.positions must be one of ['rotary', 'learned', 'none'], got 'sinusoidal'
model.positions=null -> model.positions must be one of ['rotary', 'learned', 'none'], got None
model.attention=full2 -> model.attention must be one of ['banded', 'full'], got 'full2'
model.tokens=actions -> model.tokens must be one of ['states_actions', 'states'], got 'actions'
model.action_dropout=2 -> model.action_dropout must be a number at least 0 and at most 1, got 2
model.size=tiny -> model.size is not a key
+model.foo=1 -> model.foo is not a key
+model.bias=false -> model.bias is not a key
model=mlp model.size=huge -> model.size must be one of ['nano', 'tiny', 'mini', 'small', 'base'], got 'huge'
model=mlp model.n_layer=0 -> model.n_layer must be an integer of at least 1, got 0
model=linear model.d_model=8 -> model.d_model
model=mlp_stack model.d_action=0 -> model.d_action must be an integer of at least 1, got 0
model._target_=nowhere.Model -> model._target_ must be the dotted path of something that can be imported, got
[train: expert]
+expert.foo=1 -> expert.foo is not a key
expert=sb3 expert.path=GIVEN/empty.zip -> expert.path must be a file that contains data, policy.pth, got
expert=sb3 -> expert.path must be given; it must be text
expert=sb3 expert.path=GIVEN/sb3.zip expert.activation=swish -> expert.activation must be one of ['tanh', 'relu', 'elu',
expert=function -> expert.function must be given; it must be text
expert=function expert.function=nowhere:act -> expert.function must be the dotted path of something that can be imported
expert=function expert.function=os:nobody -> expert.function=os.nobody does not exist
expert=function expert.function=os.sep -> expert.function=os.sep must be a function or class, got str
expert=function expert.function=os.listdir expert.gain=2 -> expert.gain is not a key; did you mean expert.train?
expert=sb3 expert.path=nowhere.zip -> expert.path must be a file, got nowhere.zip
expert=foo -> expert must be one of ['a2c', 'a2c_privileged', 'function', 'heuristic', 'none', 'ppo',
expert.seed=-1 -> expert.seed must be an integer from 0 to 4294967295, got -1
expert.seed=4294967296 -> expert.seed must be an integer from 0 to 4294967295, got 4294967296
expert.gamma=1.5 -> expert.gamma must be a number at least 0 and at most 1, got 1.5
expert.gamma=nan -> expert.gamma must be a number at least 0 and at most 1, got nan
expert.gate=none -> expert.gate must be a number, or null, got 'none'
expert.gate=inf -> expert.gate must be a number, or null, got inf
expert.name=a/b -> expert.name must be a name of letters, digits, _ and -, or null, got 'a/b'
expert.name= -> expert.name must be a name of letters, digits, _ and -, or null, got ''
expert.hidden=64 -> expert.hidden must be a list of an integer of at least 1, got 64
expert.hidden=[64,0] -> expert.hidden must be a list of an integer of at least 1, got [64, 0]
expert.total_steps=0 -> expert.total_steps must be an integer from 1 to 2147483647, got 0
expert.total_steps=1e6 -> expert.total_steps must be an integer from 1 to 2147483647, got 1000000.0
expert.score_every=0 -> expert.score_every must be an integer of at least 1, got 0
expert.learning_rate=0 -> expert.learning_rate must be a number above 0, got 0
expert.learning_rate=nan -> expert.learning_rate must be a number above 0, got nan
expert.n_envs=0 -> expert.n_envs must be an integer of at least 1, got 0
expert.n_envs=1000000000 -> expert.n_envs=1000000000, expert.n_steps=1024 must be smaller: at least 20,480 GB
expert.n_steps=0 -> expert.n_steps must be an integer of at least 1, got 0
expert.batch_size=1 -> expert.batch_size must be an integer of at least 2, got 1
expert.n_epochs=0 -> expert.n_epochs must be an integer of at least 1, got 0
expert.clip_range=0 -> expert.clip_range must be a number above 0, got 0
expert.ent_coef=-1 -> expert.ent_coef must be a number at least 0, got -1
expert.vf_coef=-1 -> expert.vf_coef must be a number at least 0, got -1
expert.gae_lambda=2 -> expert.gae_lambda must be a number at least 0 and at most 1, got 2
expert.max_grad_norm=0 -> expert.max_grad_norm must be a number above 0, got 0
expert.privileged=maybe -> expert.privileged must be true or false, got 'maybe'
expert.deterministic=1 -> expert.deterministic must be true or false, got 1
expert.selection_episodes=0 -> expert.selection_episodes must be an integer of at least 1, got 0
expert.gate_episodes=0 -> expert.gate_episodes must be an integer of at least 1, got 0
expert.selection_episodes=2000000 -> expert.selection_episodes + expert.gate_episodes must be at most 1000000, the
expert.train=no -> expert.train must be true or false, got 'no'
expert.train=maybe -> expert.train must be true or false, got 'maybe'
expert.train_at_most=0 -> expert.train_at_most must be an integer of at least 1, or null, got 0
expert._target_=3 -> expert._target_ must be the dotted path of something that can be imported, got 3
expert._target_=nowhere.Expert -> expert._target_ must be the dotted path of something that can be imported, got
expert.normalize_rewards=3 -> expert.normalize_rewards must be true or false, got 3
expert.log_std_init=nan -> expert.log_std_init must be a number, got nan
expert=a2c expert.critic_epochs=0 -> expert.critic_epochs must be an integer of at least 1, got 0
expert=a2c expert.clip_range=0.2 -> expert.clip_range is not a key
[train: sweeps by Optuna]
-m sweep=optuna search.space={} -> search.space={} removes nothing, as mappings are merged; ~search.space.KEY
-m sweep=optuna env.id=Foo -> env.id must be an environment that Gymnasium knows, got Foo: Environment `Foo`
-m sweep=optuna search.trial=3 -> search.trial cannot be set: a search numbers its trials
-m sweep=optuna +search.trial=3 -> search.trial cannot be set: a search numbers its trials
-m sweep=optuna model.d_model=33 model.n_head=3,11 -> model.d_model / model.n_head must be even for
-m sweep=optuna search.n_trials=0 -> search.n_trials must be an integer of at least 1, got 0
-m sweep=optuna seed=3 -> seed is set by search.seeds and search.fresh_seeds in a search, got seed=3
-m sweep=optuna hydra/launcher=foo -> hydra/launcher must be one of ['basic', 'joblib', 'ray', 'slurm',
-m sweep=optuna model.n_layer=range(0) -> search.space: model.n_layer=range(0) cannot be searched: min() arg is an
-m sweep=optuna search.space.model=foo -> search.space must contain sweeps such as interval(0, 1), got model=foo
-m sweep=optuna +search.space.foo=3 -> search.space must contain sweeps such as interval(0, 1), got foo=3
-m sweep=optuna '+search.space.foo="choice(1,2)"' -> foo is not a key; did you mean search.space.foo?
-m sweep=optuna 'search.space={}' -> search.space={} removes nothing, as mappings are merged; ~search.space.KEY
-m sweep=optuna 'search.space=null' -> search.space must contain something to search over, or a sweep must be given
-m hydra/sweeper=optuna -> hydra/sweeper=optuna needs search; sweep=optuna sets both
-m sweep=optuna search.trial=0 -> search.trial cannot be set: a search numbers its trials
[train: sweeps]
-m model.n_layer=range(0) -> model.n_layer=range(0) has no value to sweep over
-m model.n_layer=range(1,3,0) -> model.n_layer=range(1,3,0) cannot be swept over: range() arg 3 must not be zero
-m 'model.n_layer=range(3,1)' -> model.n_layer=range(3,1) has no value to sweep over
-m seed=0,1 env.id=Foo -> env.id must be an environment that Gymnasium knows, got Foo: Environment `Foo`
-m seed=0,1 model.n_layer=0 -> model.n_layer must be an integer of at least 1, got 0
-m seed=0,1 model.n_layer=0 hydra/launcher=joblib -> model.n_layer must be an integer of at least 1, got 0
-m model.dropout=interval(0,1) -> model.dropout=interval(0,1) has no discrete values to sweep over; sweep=optuna
-m model.n_layer=choice() -> model.n_layer=choice() is not an override such as key=value: ValueError while
-m model.n_layer= -> model.n_layer must be an integer of at least 1, got ''
-m model.n_layer=1, -> model.n_layer=1, is not an override such as key=value: mismatched input '<EOF>'
-m model=tiny,foo -> model must be one of ['base', 'gru', 'linear', 'lstm', 'mini', 'mlp', 'mlp_stack', 'nano',
-m seed=0,1 modle.n_layer=3 -> modle.n_layer is not a key; did you mean model.n_layer?
-m modle.n_layer=3,4 -> modle.n_layer is not a key; did you mean model.n_layer?
-m seed=0,1 hydra/launcher=foo -> hydra/launcher must be one of ['basic', 'joblib', 'ray', 'slurm',
-m seed=0,1 hydra/launcher=joblib hydra.launcher.n_jobs=0 -> hydra.launcher.n_jobs must be a number of jobs, or -1
-m seed=0,1 hydra/launcher=joblib hydra.launcher.n_jobs=x -> Error merging override hydra.launcher.n_jobs=x: Value
-m seed=0,1 hydra/launcher=joblib hydra.launcher.foo=x -> hydra.launcher.foo is not a key; +hydra.launcher.foo=…
-m seed=0,1 run_name=a/b -> run_name must be a folder name of at most 200 bytes that does not start with a
[train: logger]
+logger.foo=1 -> logger.foo is not a key
logger=csv +logger.foo=1 -> logger.foo is not a key
logger.project=a/b -> logger.project must be a name of at most 128 characters, none of them one of / \ # ?
logger.project=3 -> logger.project must be a name of at most 128 characters, none of them one of / \ # ?
logger.tags=3 -> logger.tags must be a list of text, got 3
logger.name=3 -> logger.name must be text, or null, got 3
logger.entity=3 -> logger.entity must be text, or null, got 3
logger=foo -> logger must be one of ['csv', 'mlflow', 'none', 'tensorboard', 'wandb'], got 'foo'
logger=csv logger.name=3 -> logger.name must be text, got 3
logger=csv +logger.save_dir=3 -> logger.save_dir cannot be set: its files are in the run's folder; use outputs and
logger.tags=[1] -> logger.tags must be a list of text, got [1]
+logger.mode=offline -> logger.mode cannot be set: the job sets it; the environment variable WANDB_MODE does
[train: syntax]
~env.seed_blocks.test -> env.seed_blocks must name ['demonstrations', 'validation', 'selection', 'test'], got
~expert -> expert must be given; it must be one of ['a2c', 'a2c_keys', 'a2c_privileged',
~model -> model must be given; it must be one of ['base', 'gru', 'linear', 'lstm', 'mini', 'mlp',
~callbacks.curve -> callbacks.curve must be set; results are made from it. Only best and ema may be null
model -> model is not an override such as key=value: missing EQUAL at '<EOF>'
model.n_layer=[1 -> model.n_layer=[1 is not an override such as key=value: no viable alternative at input
=3 -> =3 is not an option of a group; a group takes a name, such as model=tiny
model.n_layer={1 -> model.n_layer={1 is not an override such as key=value: no viable alternative at input
'model.n_layer="1' -> model.n_layer="1 is not an override such as key=value: LexerNoViableAltException:
-- model.n_layer=0 -> model.n_layer must be an integer of at least 1, got 0
model.n_layer=0 -- foo -> foo is not an override such as key=value: missing EQUAL at '<EOF>'
--foo -> ilt train: error: unrecognized arguments: --foo
-x -> ilt train: error: unrecognized arguments: -x
--config-name=foo -> Cannot find primary config 'foo'. Check that it's in your config search path.
--config-dir=nowhere -> Additional config directory
--resolve -> The --resolve flag can only be used in conjunction with --cfg or --help
--cfg=foo -> ilt train: error: argument --cfg/-c: invalid choice: 'foo' (choose from 'job',
--multirunn -> ilt train: error: unrecognized arguments: --multirunn
hydra.run.dirr=x -> hydra.run.dirr is not a key; did you mean hydra.run.dir?
hydra/lancher=joblib -> hydra/lancher is not a group; did you mean hydra/launcher?
hydra.mode=foo -> Error merging override hydra.mode=foo: Invalid value 'foo', expected one of [RUN,
run_name='${nope}' -> hydra.run.dir: Interpolation key 'nope' not found
model.n_layer='${nope}' -> model.n_layer: Interpolation key 'nope' not found
~model.foo -> Could not delete from config. 'model.foo' does not exist.
~foo -> Could not delete from config. 'foo' does not exist.
~model.n_layer=5 -> Could not delete from config. The value of 'model.n_layer' is 2 and not 5.
model@foo=tiny -> model@foo is not a group of ilt train
hydra/sweeper=optuna -> hydra/sweeper=optuna has no effect without -m
hydra.sweep.dir=foo -> hydra.sweep.dir=foo has no effect without -m
expert -> expert is not an override such as key=value: missing EQUAL at '<EOF>'
[train: imitation]
imitation=foo -> imitation must be one of ['bc', 'dagger', 'dart'], got 'foo'
imitation=dagger imitation.rounds=0 -> imitation.rounds must be an integer of at least 1, got 0
imitation=dagger imitation.rounds=2.5 -> imitation.rounds must be an integer of at least 1, got 2.5
imitation=dagger imitation.beta=1.1 -> imitation.beta must be a number at least 0 and at most 1, got 1.1
imitation=dagger imitation.beta=nan -> imitation.beta must be a number at least 0 and at most 1, got nan
imitation=dagger imitation.initial_fraction=0 -> imitation.initial_fraction must be a number above 0 and below 1,
imitation=dagger imitation.initial_fraction=1 -> imitation.initial_fraction must be a number above 0 and below 1,
imitation=dagger +imitation.foo=1 -> imitation.foo is not a key
imitation._target_=nowhere.BC -> imitation._target_ must be the dotted path of something that can be imported, got
[train: head]
head=foo -> head must be one of ['auto', 'categorical', 'discretized', 'gaussian',
head=mse -> head=mse is for Box actions; head=categorical is for Discrete and MultiDiscrete
env=gymnasium env.id=Pendulum-v1 head=discretized head.n_bins=1 -> head.n_bins must be an integer of at least 2,
env=gymnasium env.id=Pendulum-v1 head=gaussian_mixture head.n_components=0 -> head.n_components must be an integer
+head.foo=1 -> head.foo is not a key
head.chunk=0 -> head.chunk must be an integer of at least 1, got 0
head.chunk=1.5 -> head.chunk must be an integer of at least 1, got 1.5
head.chunk=3 head.execute=4 -> head.execute must be from 1 to head.chunk = 3, got 4
head.execute=2 -> head.execute must be from 1 to head.chunk = 1, got 2
head.ensemble=0.1 -> head.ensemble must be null where head.chunk is 1, since each action is predicted once, got 0.1
head.chunk=3 head.execute=2 head.ensemble=0.1 -> head.execute must be 1 where head.ensemble is set, since each step
head.chunk=3 head.ensemble=0.1 -> head.ensemble must be null for Discrete and MultiDiscrete actions, since choices have
head.chunk=3 head.ensemble=nan -> head.ensemble must be a number, or null, got nan
head.chunk=1000000000 -> head={
[train: optimizer]
optimizer=foo -> optimizer must be one of ['adamw'], got 'foo'
optimizer.learning_rate=0 -> optimizer.learning_rate must be a number above 0, got 0
optimizer.learning_rate=-1 -> optimizer.learning_rate must be a number above 0, got -1
optimizer.lr=0.1 -> optimizer.lr is not a key
+optimizer.lr=0.1 -> optimizer.lr is not a key
optimizer.betas=[0.9] -> optimizer.betas must be a list of 2 values, each a number at least 0 and below 1, got
optimizer.betas=0.9 -> optimizer.betas must be a list of 2 values, each a number at least 0 and below 1, got
optimizer.weight_decay=-1 -> optimizer.weight_decay must be a number at least 0, got -1
optimizer.warmup_fraction=1 -> optimizer.warmup_fraction must be a number at least 0 and below 1, got 1
optimizer.final_learning_rate_fraction=2 -> optimizer.final_learning_rate_fraction must be a number at least 0 and
[train: evaluation]
evaluation.n_episodes=0 -> evaluation.n_episodes must be an integer of at least 1, got 0
evaluation.n_episodes=1e3 -> evaluation.n_episodes must be an integer of at least 1, got 1000.0
evaluation.reported_checkpoint=final -> evaluation.reported_checkpoint must be one of ['last', 'best'], got 'final'
evaluation.context_length=0 -> evaluation.context_length must be an integer of at least 1, or null, got 0
evaluation.context_length=9 -> evaluation.context_length must be at most dataset.context_length = 8, got 9
evaluation.target_return=high -> evaluation.target_return must be a number, or null, got 'high'
evaluation.target_return=200 -> evaluation.target_return must be null unless dataset.tokens=returns_states_actions, got
evaluation.deterministic=3 -> evaluation.deterministic must be true or false, got 3
evaluation.video=maybe -> evaluation.video must be true or false, got 'maybe'
+evaluation.foo=1 -> evaluation.foo is not a key
evaluation=foo -> evaluation must be one of ['default'], got 'foo'
evaluation=null -> evaluation=null is not an option of a group; a group takes a name, such as model=tiny
[study: everything]
 -> study must be given; it must be one of ['adapt', 'blind',
zooo -> study must be one of ['adapt', 'blind',
zoo only=3 -> only must be a list of a sweep, a value or KEY:VALUE, got 3
zoo dry_run=3 -> dry_run must be true or false, got 3
zoo seed=-1 -> seed must be an integer from 0 to 4294967295, got -1
zoo trainer.max_stepz=3 -> trainer.max_stepz is not a key; did you mean trainer.max_steps?
zoo trainer.max_steps=3 -> study.sweeps.classic_control: trainer.max_steps must be a multiple of
zoo study.bar=high -> study.bar must be a number, or null, got 'high'
zoo study.metric=loss -> study.metric must be one of ['performance', 'return', 'selection'], got 'loss'
zoo study.rows=[foo] -> study.sweeps.classic_control: study.rows and study.columns must contain groups or keys of
zoo study.title= -> study.title must be text, got ''
zoo +study.foo=3 -> study.foo is not a key
zoo --run -> a study has several jobs; --run has no effect
[expert: a sweep]
-m expert.seed=0,1 env.id=Foo -> env.id must be an environment that Gymnasium knows, got Foo: Environment `Foo`
-m expert.seed=0,1 expert.n_envs=0 -> expert.n_envs must be an integer of at least 1, got 0
[expert: everything]
logger.project=a/b -> logger.project must be a name of at most 128 characters, none of them one of / \ # ?
expert=foo -> expert must be one of ['a2c', 'a2c_privileged', 'function', 'heuristic', 'none', 'ppo',
expert.n_envs=0 -> expert.n_envs must be an integer of at least 1, got 0
expert.seed=-1 -> expert.seed must be an integer from 0 to 4294967295, got -1
seed=3 -> seed is not a key; did you mean expert.seed?
+expert.foo=1 -> expert.foo is not a key
env.id=Foo -> env.id must be an environment that Gymnasium knows, got Foo: Environment `Foo`
demos.n_episodes=3 -> demos.n_episodes is not a key; did you mean expert.gate_episodes?
expert=sb3 expert.path=GIVEN/empty.zip -> expert.path must be a file that contains data, policy.pth, got
expert=heuristic env=gymnasium env.id=CartPole-v1 -> env.heuristic must name a controller for expert=heuristic, got
outputs=GIVEN/text -> outputs must be a folder, but
outputs= -> outputs must be text, got ''
expert._target_=nowhere.Expert -> expert._target_ must be the dotted path of something that can be imported, got
expert=none -> expert must be one that can act, got none
[export-minari: everything]
id=foo -> id must be the id of a Minari data set, such as mujoco/hopper/expert-v0, got 'foo'
id=/etc/foo-v0 -> id must be the id of a Minari data set, such as mujoco/hopper/expert-v0, got '/etc/foo-v0'
id=ilt-tests/nothing-v0 episodes=GIVEN/nothing -> episodes must be an .npz file or the folder of demonstrations, got
id=ilt-tests/nothing-v0 env.id=Foo -> env.id must be an environment that Gymnasium knows, got Foo: Environment `Foo`
id=ilt-tests/nothing-v0 overwrite=3 -> overwrite must be true or false, got 3
logger=none -> logger is not a group of ilt export-minari
[collect: everything]
demos.n_episodes=0 -> demos.n_episodes must be an integer of at least 1, got 0
demos=foo -> demos must be one of ['expert', 'expert_100', 'expert_100_20', 'expert_20',
demos.n_validation_episodes=10000000 -> demos.n_validation_episodes must be at most 1000000, the size of
expert.gamma=7 -> expert.gamma must be a number at least 0 and at most 1, got 7
env.id=Foo -> env.id must be an environment that Gymnasium knows, got Foo: Environment `Foo`
+demos.filters.foo=1 -> demos.filters.foo is not a key
model=tiny -> model is not a group of ilt collect
expert.name=a/b -> expert.name must be a name of letters, digits, _ and -, or null, got 'a/b'
n_envs=0 -> n_envs must be an integer of at least 1, got 0
logger.tags=a -> logger.tags must be a list of text, got 'a'
[evaluate: everything]
run=x logger.project=3 -> logger.project must be a name of at most 128 characters, none of them one of / \ # ?
 -> run must be given; it must be the folder of a finished run, such as outputs/runs/NAME
run= -> run must be the folder of a finished run, such as outputs/runs/NAME, got ''
run=nowhere -> run must be the folder of a run, with a config.yaml in it, got nowhere
run=GIVEN -> run must be the folder of a run, with a config.yaml in it, got
run=GIVEN/text -> run must be the folder of a run, with a config.yaml in it, got
run=[a] -> run must be the folder of a finished run, such as outputs/runs/NAME, got ['a']
run=x seeds= -> seeds must be BLOCK:COUNT or BLOCK:OFFSET:COUNT, such as test:1000, got ''
run=x seeds=1000 -> seeds must be BLOCK:COUNT or BLOCK:OFFSET:COUNT, such as test:1000, got 1000
run=x checkpoint=final -> checkpoint must be one of ['last', 'best'], or null, got 'final'
run=x context_length=0 -> context_length must be an integer of at least 1, or null, got 0
run=x target_return=high -> target_return must be a number, or null, got 'high'
run=x deterministic=sure -> deterministic must be true or false, got 'sure'
run=x trust=foo -> trust must be a list of text, got 'foo'
run=x model=tiny -> model is not a group of ilt evaluate
run=x env.id=Foo -> env.id is not a key
runs=x -> runs is not a key; did you mean run?
run=x +foo=1 -> foo is not a key
[compare: everything]
env=gymnasium env.id=CartPole-v1 +policies.a=ppo-091d97b2b3 -> policies.a was trained in LunarLander-v3 and cannot
env=lunar_lander_blind +policies.a=ppo-091d97b2b3 -> policies.a was trained to see observation[0], observation[1],
+policies.a=nowhere -> policies.a must be the folder of a finished run (with a results.json) or of an expert
+policies.a=random logger.project=3 -> logger.project must be a name of at most 128 characters, none of them one of
'+policies.a=nowhere/*' -> policies.a must match the folder of at least one finished run, got nowhere/*
+policies.a=ppo-091d97b2b3 +subsets.windy=wind:0:1 -> subsets.windy must start with one of [], which env randomizes, got
 -> policies must be given; it must be a mapping from names to policies, such as
+policies.a=3 -> policies must be a mapping from names to policies, such as
+policies.a= -> policies must be a mapping from names to policies, such as
'+policies.a b=random' -> +policies.a b=random is not an override such as key=value: LexerNoViableAltException:
'+policies={}' -> policies must be a mapping from names to policies, such as
+policies=a -> policies must be one of ['adapt', 'blind', 'unseen'], got 'a'
policies=foo -> policies must be one of ['adapt', 'blind', 'unseen'], got 'foo'
+policies.random=ppo-091d97b2b3 -> policies.random must be random, which is always compared, got ppo-091d97b2b3
+policies.a=random name=a/b -> name must be a name of letters, digits, _ and -, got 'a/b'
+policies.a=random name= -> name must be a name of letters, digits, _ and -, got ''
+policies.a=random seeds=test:0 -> seeds must stay in env.seed_blocks.test, which has 1000000 seeds, got 'test:0'
+policies.a=random seeds=test -> seeds must be BLOCK:COUNT or BLOCK:OFFSET:COUNT with one of ['demonstrations',
+policies.a=random seeds=tests:10 -> seeds must be BLOCK:COUNT or BLOCK:OFFSET:COUNT with one of ['demonstrations',
+policies.a=random seeds=test:-1 -> seeds must be BLOCK:COUNT or BLOCK:OFFSET:COUNT with one of ['demonstrations',
+policies.a=random seeds=test:99999999 -> seeds must stay in env.seed_blocks.test, which has 1000000 seeds, got
+policies.a=random seeds=test:a -> seeds must be BLOCK:COUNT or BLOCK:OFFSET:COUNT with one of ['demonstrations',
+policies.a=random seeds=10 -> seeds must be BLOCK:COUNT or BLOCK:OFFSET:COUNT, such as test:1000, got 10
+policies.a=random reference=foo -> reference must name one of policies = ['a', 'random'], got foo
+policies.a=random until=some -> until must be one of ['all', 'decided'], got 'some'
+policies.a=random margin=5 -> policies must have at least one policy besides the reference, a, with margin, got ['a'];
+policies.a=random +policies.b=random until=decided margin=-1 -> margin must be a number above 0, or null, got -1
+policies.a=random +policies.b=random until=decided margin=0 -> margin must be a number above 0, or null, got 0
+policies.a=random +policies.b=random until=decided margin=five -> margin must be a number above 0, or null, got 'five'
+policies.a=random until=decided margin=5 -> policies must have at least one policy besides the reference, a, with
env=lunar_lander_hidden +policies.a=random +policies.b=random until=decided +subsets.w=wind_power:0:1 -> subsets must be
+policies.a=random video=a -> video must be a list of a name of letters, digits, _ and -, or null, got 'a'
+policies.a=random video=[foo] -> video must name one of policies = ['a', 'random'], got foo
+policies.a=random +subsets.w=3 -> subsets must be a mapping from names to PARAMETER:LOW:HIGH, such as
+policies.a=random +subsets.w=wind -> subsets.w must be PARAMETER:LOW:HIGH with two quantiles from 0 to 1, such as
+policies.a=random +subsets.w=wind:0.5 -> subsets.w must be PARAMETER:LOW:HIGH with two quantiles from 0 to 1, such
+policies.a=random +subsets.w=wind_power:1:0 -> subsets.w must be PARAMETER:LOW:HIGH with two quantiles from 0 to
+policies.a=random +subsets.w=wind_power:0:2 -> subsets.w must be PARAMETER:LOW:HIGH with two quantiles from 0 to
+policies.a=random +subsets.w=wind_power:0:1 -> subsets.w must start with one of [], which env randomizes, got
env=lunar_lander_hidden +policies.a=random +subsets.w=foo:0:1 -> subsets.w must start with one of ['gravity',
+policies.a=random deterministic=3 -> deterministic must be true or false, got 3
+policies.a=random expert=ppo -> expert is not a group of ilt compare
+policies.a=random env.id=Foo -> env.id must be an environment that Gymnasium knows, got Foo: Environment `Foo`
+policies.a=GIVEN -> policies.a must be the folder of a finished run (with a results.json) or of an expert
+policies.a=a2c-ecdd424b2b env=gymnasium env.id=CartPole-v1 -> policies.a was trained in LunarLander-v3 and cannot
[probe: everything]
run=x logger.project=3 -> logger.project must be a name of at most 128 characters, none of them one of / \ # ?
 -> run must be given; it must be the folder of a finished run, such as outputs/runs/NAME
run=nowhere -> run must be the folder of a run, with a config.yaml in it, got nowhere
run=GIVEN -> run must be the folder of a run, with a config.yaml in it, got
run=x seeds=5 -> seeds must be BLOCK:COUNT or BLOCK:OFFSET:COUNT, such as test:1000, got 5
run=x fit_seeds=5 -> fit_seeds must be BLOCK:COUNT or BLOCK:OFFSET:COUNT, such as selection:1000, got 5
run=x steps=3 -> steps must be a list of an integer of at least 0, got 3
run=x steps=[1,-1] -> steps must be a list of an integer of at least 0, got [1, -1]
run=x steps=[a] -> steps must be a list of an integer of at least 0, got ['a']
run=x checkpoint=final -> checkpoint must be one of ['last', 'best'], or null, got 'final'
run=x other= -> other must be text, or null, got ''
run=x deterministic=true -> deterministic is not a key
[figures: everything]
 -> run must be given; it must be the folder of a finished run, such as
run= -> run must be the folder of a finished run, such as outputs/runs/NAME, got ''
run=3 -> run must be the folder of a finished run, such as outputs/runs/NAME, got 3
run=nowhere -> run must be the folder of a finished run, a comparison or a sweep, got nowhere
run=GIVEN/text -> run must be the folder of a finished run, a comparison or a sweep, got
run=x width=5 -> width must be one of [3.3, 6.8], or null, got 5
run=x foo=1 -> foo is not a key
runs=x -> runs is not a key; did you mean run?
[show: everything]
 -> run must be given; it must be the folder of a finished run, such as
run= -> run must be the folder of a finished run, such as outputs/runs/NAME, got ''
run=nowhere -> run must be the folder of a run or of an artifact, got nowhere
run=GIVEN/text -> run must be the folder of a run or of an artifact, got
run=[a] -> run must be the folder of a finished run, such as outputs/runs/NAME, got ['a']
run=x foo=1 -> foo is not a key
runs=x -> runs is not a key; did you mean run?
[report: everything]
 -> runs must be given; it must be a folder that contains finished runs, such as
runs= -> runs must be a folder that contains finished runs, such as outputs/multirun/NAME, got ''
runs=nowhere -> runs must be a folder that contains finished runs, got nowhere
runs=GIVEN -> runs must be a folder that contains finished runs, got
runs=GIVEN/text -> runs must be a folder that contains finished runs, got
runs=x example= -> example must be text, or null, got ''
runs=x videos=some -> videos must be true or false, got 'some'
runs=x trust=3 -> trust must be a list of text, got 3
run=x -> run is not a key; did you mean runs?
runs=[a] -> runs must be a folder that contains finished runs, such as outputs/multirun/NAME, got
[list: everything]
outputs=/nonexistent -> outputs must be a folder, got /nonexistent
outputs=GIVEN/text -> outputs must be a folder, but
kind=foo -> kind must be one of ['runs', 'experts', 'demos', 'rounds', 'rollouts',
kind=3 -> kind must be one of ['runs', 'experts', 'demos', 'rounds', 'rollouts',
foo=1 -> foo is not a key
kinds=runs -> kinds is not a key; did you mean kind?
outputs= -> outputs must be text, got ''
env.id=Foo -> env.id is not a key
[clean: everything]
outputs=/nonexistent -> outputs must be a folder, got /nonexistent
outputs=GIVEN/text -> outputs must be a folder, but
hours=-1 -> hours must be a number at least 0, got -1
hours=nan -> hours must be a number at least 0, got nan
hours=x -> hours must be a number at least 0, got 'x'
yes=maybe -> yes must be true or false, got 'maybe'
yes=1 -> yes must be true or false, got 1
all=true -> all is not a key
outputs=[a] -> outputs must be text, got ['a']
[sync: everything]
outputs=/nonexistent -> outputs must be a folder, got /nonexistent
outputs=GIVEN/text -> outputs must be a folder, but
dry_run=maybe -> dry_run must be true or false, got 'maybe'
dryrun=true -> dryrun is not a key; did you mean dry_run?
outputs=3 -> outputs must be text, got 3
outputs= -> outputs must be text, got ''
[dashboard: everything]
outputs=GIVEN/text -> outputs must be a folder, but
project= -> project must be a name of at most 128 characters
project=3 -> project must be a name of at most 128 characters
project=a/b -> project must be a name of at most 128 characters, none of them one of / \ # ? % :,
entity=3 -> entity must be text, or null, got 3
entity= -> entity must be text, or null, got ''
foo=1 -> foo is not a key
[: commands]
trian -> ilt: trian is not a command; did you mean train?
foo -> ilt: foo is not a command; ilt --help lists the commands
Train -> ilt: Train is not a command; did you mean train?
--foo -> ilt: --foo is not a command; ilt --help lists the commands
-x -> ilt: -x is not a command; ilt --help lists the commands
help -> ilt: help is not a command; ilt --help lists the commands
"""
LATE = r"""
[train: code and files of somebody else]
model._target_=torch.nn.Linear -> model.n_layer is not a key of torch.nn.modules.linear.Linear
optimizer._target_=torch.optim.Foo -> optimizer._target_=torch.optim.Foo does not exist
optimizer._target_=os.getcwd -> optimizer.learning_rate is not a key of posix.getcwd
trainer._target_=os.getcwd -> trainer.accelerator is not a key of posix.getcwd
expert._target_=os.getcwd -> expert.
expert=function expert.function=os.getcwd -> expert.function=os.getcwd must take observations, but takes no argument
expert=function expert.function=os.listdir +expert.gain=2 -> expert.gain is not a key of posix.listdir
imitation._target_=os.getcwd -> imitation.
dataset._target_=os.getcwd -> dataset.
head._target_=os.getcwd -> head.
demos._target_=os.getcwd -> demos.
callbacks.rollout._target_=os.getcwd -> callbacks.rollout.
logger={_target_:os.getcwd} -> logger.
expert=sb3 expert.path=GIVEN/sb3.zip -> expert.path=
demos=file demos.path=GIVEN/episodes.npz demos.validation_path=GIVEN/episodes.npz -> demos.path:
"""
"""A heading gives the command and the topic of the lines below it. A line contains the arguments and the start of the
expected message. `GIVEN` is the folder of the fixture `given`."""


def read(table: str) -> dict[str, list[tuple[str, str]]]:
    """Return the lines below each heading as pairs of command line and start of the message."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in filter(None, table.splitlines()):
        if heading := re.fullmatch(r"\[([\w-]*): (.*)\]", line):
            command, lines = heading[1], found.setdefault(line[1:-1], [])
        else:
            arguments, _, words = line.partition(" -> ")
            lines.append((f"{command} {arguments}".strip(), words))
    return found


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with files of the wrong kind."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "text").write_text("words\n")
    with zipfile.ZipFile(folder / "empty.zip", "w"):
        pass
    with zipfile.ZipFile(folder / "sb3.zip", "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr("policy.pth", "words")
    names = ("observations", "actions", "rewards", "lengths", "terminated", "truncated", "seeds")
    np.savez(folder / "episodes.npz", **{name: np.zeros(3) for name in names})
    return folder


def faults_of(lines: list[tuple[int, tuple[str, str]]], *, folder: Path, given: Path, imports: bool) -> list[str]:
    """Type numbered inputs one after the other, and return everything that is wrong with the answers."""
    inputs = []
    for number, (arguments, _) in lines:
        (folder / str(number)).mkdir()
        inputs.append([str(folder / str(number)), shlex.split(arguments.replace("GIVEN", str(given)))])
    typed = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **WITHOUT_KEYS},
        input="".join(f"{json.dumps(each)}\n" for each in inputs),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = []
    for (number, (arguments, words)), code in zip(lines, map(int, typed.stdout.split()), strict=True):
        place = folder / str(number)
        said, printed = (Path(f"{place}.{name}").read_text() for name in ("said", "printed"))
        left = {path.relative_to(place) for path in place.rglob("*")} - EMPTY
        faults = {
            f"it exits with {code}": code not in (1, 2),
            f"it says {said[-2000:]!r}": said.count("\n") != 1 or not said.startswith(words),
            f"it leaves {sorted(map(str, left))}": bool(left),
            f"it prints {printed[-2000:]!r}": not imports and not printed.endswith("False\n"),
        }
        found += [f"ilt {arguments}: {fault}" for fault, is_one in faults.items() if is_one]
    return found


def try_all(lines: list[tuple[str, str]], **options: Any) -> None:
    """Type every input, two at a time, and fail with everything that is wrong."""
    numbered = list(enumerate(lines))
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda half: faults_of(half, **options), (numbered[::2], numbered[1::2]))
        faults = [fault for each in found for fault in each]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("heading", read(EARLY))
def test_invalid_settings_are_reported_before_the_imports(
    heading: str, tmp_path: Path, given: Path, survived: Callable[[str, int], None]
) -> None:
    if "without a GPU" in heading and Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    lines = read(EARLY)[heading]
    try_all(lines, folder=tmp_path, given=given, imports=False)
    survived(f"wrong inputs, {heading.partition(':')[0] or 'no command'}", len(lines))


@pytest.mark.parametrize("heading", read(LATE))
def test_errors_found_in_user_code_or_files_are_reported_before_training(
    heading: str, tmp_path: Path, given: Path, survived: Callable[[str, int], None]
) -> None:
    lines = read(LATE)[heading]
    try_all(lines, folder=tmp_path, given=given, imports=True)
    survived(f"wrong inputs, {heading.partition(':')[0]}, after the imports", len(lines))


def test_every_command_has_wrong_inputs() -> None:
    lines = [line for table in (EARLY, LATE) for each in read(table).values() for line in each]
    assert {line.split()[0] for line, _ in lines} >= set(COMMANDS)
    assert len(lines) >= 236
