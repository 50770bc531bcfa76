mod flow;
mod hello;
mod tunnel;
