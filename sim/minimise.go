package sim

// Minimise leaves out actions of a run that fails for as long as it still fails,
// and returns the run that is left with its error. tried is called after each try
// with how many actions are left.
func Minimise(cfg Config, tried func(left int)) (Config, error) {
	_, failure := Run(cfg)
	if failure == nil {
		return cfg, nil
	}
	left := []int{}
	for n := range cfg.Actions {
		if !cfg.Skip[n] {
			left = append(left, n)
		}
	}
	for size := (len(left) + 1) / 2; size > 0; {
		shorter := false
		for from := 0; from < len(left); {
			some := left[from:min(from+size, len(left))]
			next := cfg
			next.Skip = map[int]bool{}
			for n := range cfg.Skip {
				next.Skip[n] = true
			}
			for _, n := range some {
				next.Skip[n] = true
			}
			_, err := Run(next)
			if err == nil {
				from += size
				tried(len(left))
				continue
			}
			cfg, failure, shorter = next, err, true
			left = append(left[:from:from], left[from+len(some):]...)
			tried(len(left))
		}
		if !shorter || size > len(left) {
			size /= 2
		}
	}
	return cfg, failure
}
