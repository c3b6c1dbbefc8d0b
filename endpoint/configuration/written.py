"""What `headrace endpoint configure` writes: working defaults, with comments."""

from __future__ import annotations

from typing import Final

CONFIG: Final = """\
# The configuration of this endpoint, and what all its pools have in common. Lines with a # show the defaults.
# A change counts from the next start, or after `headrace endpoint reload`. Check it with `headrace endpoint validate`.

# What people see.
display_name: {name}

# Who may run functions here, besides you: everybody with an account, or these users and groups.
# public: false
# shared_with: [urn:headrace:user:grace]

# How they must have signed in with Globus or OIDC; or the id of a policy of Globus Auth.
# authentication_policy:
#   allowed_domains: [example.org, "*.example.org"]
#   excluded_domains: [guests.example.org]
#   authentication_assurance_timeout: 3600    # seconds
#   required_mfa: false

# The only functions that may run here. Without this line all may.
# allowed_functions: [00000000-0000-0000-0000-000000000000]
# allowed_function_owners: [urn:headrace:user:grace]    # and all functions of these users

# Write down each task that has ended: who, which function, how, when. In this directory, unless it says where.
# audit_log_path: audit.log

# Who is which local user, in the form of Globus Compute's: pools then run as these. For endpoints that root starts.
# identity_mapping_config_path: identity_mapping.json

# How much may be queued here, of each user and of all together: bundles of one task or more.
# queue_limits:
#   bundles_per_principal: 10000
#   bundles: 50000

# Users take turns. Some may have more turns than others, and nobody need have all workers.
# fair_share:
#   weights:
#     urn:headrace:user:grace: 2
#   most_running_per_principal: 4

# How many pools may run at a time, one for each user and each set of options: all together, and of one user.
# max_pools: 20
# max_pools_per_principal: 5

# Folders whose files become events when they are complete (docs/how-to/announce-files.md).
# watch:
#   - folder: /data/microscope
#     complete: closed    # or stable, renamed, marker
#     include: ["*.tif"]

# The template of pools and the schema of its options, where they are not those in this directory.
# user_config_template_path: /opt/site/user_config_template.yaml.j2
# user_config_schema_path: /opt/site/user_config_schema.json

# From here on: each pool, as far as the template does not say it anew.

# How many tasks run at a time. `auto` is one for each processor.
workers: auto

# What runs them: worker processes on this machine, or another engine with its own keys.
# engine:
#   type: ProcessEngine

# The Python of the workers, which must have headrace installed; by default the one that runs the endpoint.
# python: /opt/science/bin/python

# Variables that the workers find in their environment, besides those of whoever starts the endpoint.
# environment:
#   OMP_NUM_THREADS: 1

# The memory of each worker; a task that needs more fails. A number of bytes, or one with MB, GB, MiB or GiB.
# worker_memory_limit: 2GB

# Replace a worker after so many tasks, for functions that leak memory.
# max_tasks_per_worker: 1000

# Run each task in an empty directory of its own, which is removed when the task has ended.
# sandbox: false

# Leave the directories of failed tasks where they are, for you to look into and to remove.
# keep_failed_sandboxes: false

# Which packages functions may bring along: on, off, or a list of names. An index of one's own can be said as well.
# environments: off

# How much is kept of what one run of a task prints. With 0 it goes to the log of the endpoint instead.
# task_log_limit_bytes: 1048576

# debug, info, warning or error; `debug: true` is the same as the first.
# log_level: info
# debug: false
"""

TEMPLATE: Final = """\
{# The configuration of one pool, made by Jinja2 from a user's options: Executor(user_endpoint_config={...}).
   Without options it must give a configuration as well, or users have to give some.

   Options are checked against user_config_schema.json before. A text among them comes with quotes of its own, so write
   `key: {{ option }}`; within quotes of yours, "... {{ option }} ...", it comes without. Either way it stays a part of
   one value, whatever is in it. For a shell add the filter: {{ option | shell_quote }}.

   Look what comes of it: headrace endpoint render-user-config NAME --options '{"workers": 2}'
   What Headrace itself knows is _GC.user_runtime, _GC.mapped_identity, _GC.parent_config and _GC.env. -#}

# What runs the tasks. Worker processes on this machine need no more than this.
# engine:
#   type: ProcessEngine

{% if workers is defined %}
# How many tasks run at a time; config.yaml says it for everybody else.
workers: {{ workers }}
{% endif %}

{% if environment is defined %}
# Variables for the tasks, besides those of config.yaml and user_environment.yaml.
environment: {{ environment }}
{% endif %}

# Stop the pool when it had nothing to do for so many heartbeats of 30 seconds, and when nothing moved for so many
# although it has tasks. 0 is never.
idle_heartbeats_soft: 10
idle_heartbeats_hard: 5760
"""

SCHEMA: Final = """\
{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "$comment": "The options that user_config_template.yaml.j2 takes. What is not named here is refused.",
  "type": "object",
  "properties": {
    "workers": {
      "description": "How many tasks run at a time.",
      "type": "integer",
      "minimum": 1,
      "maximum": 64
    },
    "environment": {
      "description": "Variables for the tasks.",
      "type": "object",
      "propertyNames": { "pattern": "^(?!HEADRACE_|LD_)[A-Za-z_][A-Za-z0-9_]*$" },
      "additionalProperties": { "type": ["string", "number"] }
    }
  },
  "additionalProperties": false
}
"""

ENVIRONMENT: Final = """\
# Variables that all pools of this endpoint find in their environment: names and texts, nothing nested.
# They go before those of whoever starts the endpoint, and before `environment` in config.yaml.
# HEADRACE_... is not possible here: those variables are the endpoint's own, and no pool sees them.

# PATH: /opt/site/bin:/usr/bin:/bin
# SCRATCH: /scratch/headrace
"""
