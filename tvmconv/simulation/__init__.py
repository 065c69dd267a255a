"""Networks on a simulated tensor core, and its instructions one by one."""
