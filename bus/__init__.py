"""The only speaker of NATS: streams, bundles, results, credentials; events, filters, subscriptions, dispatcher.

This package imports nothing by itself. Its modules are its public list (see the README beside this file): a worker
process needs two light ones and must not pay for a connection that it never has.
"""
