"""An OpenEnv environment whose steps wait as long as they are told and say who served them."""
