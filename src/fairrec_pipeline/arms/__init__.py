"""What an arm is: what is trained (`ArmSpec`), what it leaves (`ArmRecord`), and where that lies (`ArmStore`)."""
