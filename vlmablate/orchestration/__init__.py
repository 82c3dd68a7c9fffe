"""From frozen specifications to finished results: store, leases, plan, executors, worker, controller.
Torch-free.
"""
